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
