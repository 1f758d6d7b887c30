"""Measurements side by side. Run alone: python -m pytest tests/test_bench.py"""

import json

import pytest

from hermes_nb import bench, cli, formats
from hermes_nb.bench import auditing


def test_ratios_and_bars_by_hand():
    """Two rounds (bare, its core, audit, map, second call): 1000, 1500, 700, 200, 0.1 and 2000, 2500, 1000, 400, 0.3.

    Audit over bare: 0.7 and 0.5, median 0.6, which just holds; over the map: 3.5 and 2.5, median 3.
    """
    told = auditing._told([(1000, 1500, 700, 200, 0.1), (2000, 2500, 1000, 400, 0.3)], near=50.0, count=10, memory=None)
    assert told["ratios"]["audit over bare tokenizer"] == {"median": 0.6, "min": 0.5, "max": 0.7}
    assert told["ratios"]["audit over row-by-row map"]["median"] == 3.0
    assert told["misses"] == []
    assert "memory growth, MB" not in told["ratios"]
    assert json.loads(json.dumps(told)) == told


def test_a_missed_bar_is_named_and_ends_with_status_1(monkeypatch, capsys, tmp_path):
    """A benchmark that always passes is an advertisement."""
    told = auditing._told([(1000, 1500, 500, 400, 2.0)], near=50.0, count=10, memory=(20, 400.0))
    assert told["misses"] == list(auditing.BARS)
    monkeypatch.setattr(bench, "data", lambda rows, repeats, memory: told)
    assert cli.main(["bench", "data", "--json", str(tmp_path / "b.json")]) == 1
    assert capsys.readouterr().out.count("MISSED") == 4
    assert json.loads((tmp_path / "b.json").read_text())["misses"] == list(auditing.BARS)


def test_rows_are_all_different_and_long(tmp_path):
    """Equal rows would be dropped as duplicates, and short ones would measure the reading of files."""
    auditing.write_rows(tmp_path / "p.jsonl", 300)
    rows = formats.load("orca_dpo_pairs", tmp_path / "p.jsonl")
    texts = ["\n".join(m["content"] for part in ("prompt", "chosen", "rejected") for m in row[part]) for row in rows]
    assert len({*texts}) == 300
    assert 2500 < sum(map(len, texts)) / 300 < 4500  # characters, about 700 tokens


@pytest.mark.slow
def test_the_data_side_keeps_its_promises():
    """Formatting and audit at 60 % of the bare tokenizer and twice a row-by-row map; a second call under a second.

    Both sides run in turn, but another process can still slow one of them: what is missed is measured once more.
    """
    told = bench.data(6000, repeats=3)
    told = bench.data(6000, repeats=5) if told["misses"] else told
    assert not told["misses"], bench.audit_text(told)


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows():
    """200,000 rows of 3 kB are 600 MB: held in memory, or mapped and touched, they would show."""
    assert auditing._growth(200_000) < auditing.BARS["memory growth, MB"][1]


def rounds(trl=(40.0, 44.0), ours=(10.0, 11.0)):
    """Two rounds of all sides: seconds of TRL's defaults and of packed rows given, the others in between."""
    import torch

    from hermes_nb.bench.training import sides

    out = []
    for slow, fast in zip(trl, ours, strict=True):
        found = {side.name: {"step": 20.0, "reference": 2.0, "gb": 2.0} for side in sides(False)}
        found["trl, defaults"] |= {"step": slow, "gb": 8.0, "scores": torch.zeros(2, 3)}
        found["packed, on the fly"] |= {"step": fast, "scores": torch.full((2, 3), 0.125)}
        found["packed, cached"]["step"] = fast - 2
        out.append(found)
    return out


SETTING = {"lengths": "orca", "model": "builtin", "pairs": 2, "max_length": 64, "rank": 8, "checkpointing": False,
           "tokens_at_once": 1024, "left_out": {"unsloth": "not installed here"}}  # fmt: skip


def dpo_told(monkeypatch, **how):
    from hermes_nb import roofline
    from hermes_nb.bench import training

    monkeypatch.setattr(training, "peak_flops", lambda: (1e12, "given"))
    pairs = [[(4, 2, 2), (2, 3, 1)]] * 2
    return training.told(rounds(**how), pairs, roofline.SMOLLM2_135M, SETTING)


def test_dpo_ratios_by_hand(monkeypatch):
    """40 / 10 and 44 / 11 on the fly, 40 / 8 and 44 / 9 with a stored reference; the pass counted over three epochs.

    Padded, the two pairs take 4 sides of 6 places: 24, of which 14 are theirs once and 6 prompts again.
    """
    told = dpo_told(monkeypatch)
    assert told["ratios"]["on the fly"] == {"median": 4.0, "min": 4.0, "max": 4.0}
    assert told["ratios"]["cached"]["max"] == 5.0
    assert told["ratios"]["three epochs, the reference pass counted"]["max"] == 3 * 40 / (3 * 8 + 2)
    assert told["ratios"]["cached, against the best of TRL's settings"]["max"] == 20 / 8
    assert told["ratios"]["memory"]["median"] == 0.25
    assert told["padding"] == {"padding": 4 / 24, "prompts again": 6 / 24}
    assert told["sides"]["packed, on the fly"]["pairs_s"] == pytest.approx((2 / 10 + 2 / 11) / 2)
    assert told["largest difference, nats a token"] == 0.125
    assert told["misses"] == []
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told))


def test_a_slow_engine_is_told(monkeypatch, capsys, tmp_path):
    """Twice as slow as promised: both bars are missed, printed, and the exit status says so."""
    told = dpo_told(monkeypatch, ours=(30.0, 33.0))
    assert told["misses"] == ["on the fly", "cached"]
    monkeypatch.setattr(bench, "dpo", lambda *a, **k: told)
    assert cli.main(["bench", "dpo", "--lengths", "orca", "--json", str(tmp_path / "d.json")]) == 1
    out = capsys.readouterr().out
    assert out.count("MISSED") == 2
    assert "unsloth is left out: not installed here" in out
    assert "| pairs/s over TRL's: on the fly | 1.33" in bench.training_markdown(told)


def test_memory_that_the_system_does_not_tell_is_left_out(monkeypatch):
    """On other systems than Linux a CPU's peak is unknown; the run must still be told."""
    from hermes_nb.bench import training

    without = rounds()
    for found in without:
        for side in found.values():
            side["gb"] = None
    monkeypatch.setattr(training, "peak_flops", lambda: (1e12, "given"))
    from hermes_nb import roofline

    told = training.told(without, [[(4, 2, 2)]] * 2, roofline.SMOLLM2_135M, SETTING)
    assert "memory" not in told["ratios"]
    assert told["misses"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--lengths", "nowhere.jsonl"], "nowhere"), (["--model", "gpt"], "no model 'gpt'"),
     (["--against", "trl,axolotl"], "axolotl"), (["--model", "mistral-7b-shape"], "on a GPU")],
)  # fmt: skip
def test_what_cannot_be_measured_is_said(arguments, said, capsys, monkeypatch):
    """Exit status 2 and one sentence, before anything is measured."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "dpo", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_pairs_have_the_lengths_that_are_asked_for():
    """Cut from our own texts, no two alike, and drawn by the seed."""
    from hermes_nb import models
    from hermes_nb.bench import training

    tokenizer = models.tokenizer("builtin", "chatml")
    triples = training.drawn(training.lengths("orca", tokenizer), 5, 1024, 0)
    assert triples == training.drawn(training.lengths("orca", tokenizer), 5, 1024, 0)
    rows = training.made(triples, tokenizer, 1000)
    assert [tuple(map(len, row.values())) for row in rows] == triples
    assert len({str(row) for row in rows}) == 5
    assert max(i for row in rows for ids in row.values() for i in ids) < 1000
