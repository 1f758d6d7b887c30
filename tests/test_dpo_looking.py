"""Held-out pairs, looked at while a run trains. Run alone: python -m pytest tests/test_dpo_looking.py"""

import json
from dataclasses import replace

import numpy as np
import pytest

from hermes_nb import dpo, history, models, reference
from hermes_nb.dpo.looking import schedule
from hermes_nb.errors import FileProblem

pytestmark = pytest.mark.usefixtures("frozen")
SILENT = lambda *a: None  # noqa: E731


@pytest.fixture
def ours(recipe):
    more = {"max_steps": 6, "checkpoints": 3, "learning_rate": 1e-3, "reference": "on_the_fly", "looks": 3}
    return replace(recipe, sft=None, dpo=replace(recipe.dpo, **more))


@pytest.fixture
def pairs(rows):
    return {"train": rows["dpo"], "held_out": rows["dpo"].select(range(5))}


def interrupted(recipe, pairs, out, at):
    """A run that ends in an error when step `at` is logged."""

    def watch(rows, step, steps):
        if step == at:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dpo.train(recipe, pairs, out, watch=watch)


def test_the_last_step_is_among_the_looks():
    """Four looks at 20 steps: 5, 10, 15, 20; more looks than steps: every step once."""
    assert schedule(20, 4) == [5, 10, 15, 20]
    assert schedule(3, 8) == [1, 2, 3]
    assert schedule(7, 2) == [4, 7]
    assert schedule(20, 0) == []


def test_looks_are_what_the_trained_model_says(ours, pairs, recipe, tmp_path):
    """Numbers in a picture that the adapter on disk does not give are decoration."""
    run = dpo.train(ours, pairs, tmp_path, watch=SILENT)
    looks = history.looks(run.path)
    assert looks.steps == [0, 2, 4, 6]
    assert looks.beta == ours.dpo.beta
    assert len(looks.pairs) == 5
    tokenizer = models.tokenizer(ours.model.base, ours.model.template)
    base = models.load_4bit(ours.model.base)
    start = reference.pair_logps(base, tokenizer, pairs["held_out"])
    trained = models.load_adapter(base, run.adapter)
    end = reference.pair_token_logps(trained, tokenizer, pairs["held_out"])
    chosen, rejected = reference.sums(end)
    last = looks.table[looks.table.step == 6]
    np.testing.assert_allclose(last.logp_chosen, chosen, atol=2e-3)
    np.testing.assert_allclose(last.logp_rejected, rejected, atol=2e-3)
    np.testing.assert_allclose(last.reward_chosen, ours.dpo.beta * np.subtract(chosen, start[0]), atol=1e-3)
    np.testing.assert_allclose(looks.tokens[6, 3][0], end[3][0], atol=1e-3)
    assert abs(last.margin).max() > 0.01, "it has moved"


def test_a_pair_is_told_with_its_texts_and_tokens(ours, pairs, tmp_path):
    """The explorer reads a run folder alone: no data set, no tokenizer."""
    looks = history.looks(dpo.train(ours, pairs, tmp_path, watch=SILENT).path)
    pair, row = looks.pairs[2], pairs["held_out"][2]
    assert {k: pair[k] for k in ("prompt", "chosen", "rejected", "kind", "source", "row")} == {
        k: row[k] for k in ("prompt", "chosen", "rejected", "kind", "source", "row")
    }
    assert "".join(pair["pieces"][0][:-1]) == row["chosen"][0]["content"]
    assert pair["pieces"][0][-1] == "<|im_end|>"
    assert [len(side) for side in looks.tokens[6, 2]] == [len(side) for side in pair["pieces"]]


def test_the_sum_over_tokens_is_the_reward(ours, pairs, tmp_path):
    """A heat map whose sum is another number explains nothing."""
    looks = history.looks(dpo.train(ours, pairs, tmp_path, watch=SILENT).path)
    last = looks.table[looks.table.step == 6].set_index("pair")
    for pair in range(5):
        chosen, rejected = looks.earned(pair)
        assert sum(chosen) == pytest.approx(last.reward_chosen[pair], abs=1e-3)
        assert sum(rejected) == pytest.approx(last.reward_rejected[pair], abs=1e-3)


def test_looking_changes_nothing_in_the_training(ours, pairs, tmp_path):
    """A number that changes because one looks at it."""
    blind = replace(ours, dpo=replace(ours.dpo, looks=0))
    runs = [dpo.train(r, pairs, tmp_path / str(k), watch=SILENT) for k, r in enumerate((ours, blind))]
    assert len({(r.adapter / "adapter_model.safetensors").read_bytes() for r in runs}) == 1
    losses = [history.series(history.load(r.path), "loss").tolist() for r in runs]
    assert losses[0] == losses[1]
    with pytest.raises(FileProblem, match=r"dpo\.looks"):
        history.looks(runs[1].path)


def test_metrics_of_the_looks_are_tidy_rows(ours, pairs, tmp_path):
    """The dashboard's band: the 10th and 90th percentile of the margins."""
    run = dpo.train(ours, pairs, tmp_path, watch=SILENT)
    table, looks = history.load(run.path), history.looks(run.path)
    for step in looks.steps:
        at = table[(table.split == "looks") & (table.step == step)].set_index("metric").value
        margins = looks.margins(step)
        assert at["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
        assert at["margin_low"] == pytest.approx(np.quantile(margins, 0.1), abs=1e-5)
        assert at["margin_high"] == pytest.approx(np.quantile(margins, 0.9), abs=1e-5)
        assert step == 0 or at["accuracy"] == np.mean(np.array(margins) > 0)
    start = table[(table.split == "looks") & (table.step == 0)].set_index("metric").value
    assert "accuracy" not in start, "all are ties: no share of them is right or wrong"
    assert (start.drop(["seconds", "to_come"]) == 0).all()
    assert history.series(table, "to_come", "looks").tolist() == [3, 2, 1, 0]
    assert run.metrics["look_seconds"] > 0
    assert run.metrics["train_margin"] == history.series(table, "margin").iloc[-1], "of the training pairs"


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_run_has_each_look_once(ours, pairs, tmp_path, stop):
    """A look twice in the file would stand twice in the picture."""

    interrupted(ours, pairs, tmp_path / "b", stop)
    broken = dpo.train(ours, pairs, tmp_path / "b", watch=SILENT)
    straight = dpo.train(ours, pairs, tmp_path / "a", watch=SILENT)

    def looks(run):
        lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
        return [line for line in lines if line.get("metric") not in ("seconds", "peak_gb")]

    assert looks(broken) == looks(straight)
    assert history.looks(broken.path).steps == [0, 2, 4, 6]


def test_a_running_run_can_be_read(ours, pairs, tmp_path):
    """From another notebook, while it trains."""
    seen = []

    def watch(rows, step, steps):
        seen.append((history.looks(tmp_path / "dpo").steps, len(history.load(tmp_path / "dpo"))))

    dpo.train(ours, pairs, tmp_path, watch=watch)
    assert [steps for steps, _ in seen] == [[0], [0, 2], [0, 2], [0, 2, 4], [0, 2, 4], [0, 2, 4, 6]]
    assert [n for _, n in seen] == sorted(n for _, n in seen)


def test_no_more_pairs_are_looked_at_than_asked(ours, pairs, tmp_path):
    """A held-out set of thousands must not be scored five times."""
    few = replace(ours, dpo=replace(ours.dpo, looked_pairs=2))
    assert len(history.looks(dpo.train(few, pairs, tmp_path, watch=SILENT).path).pairs) == 2


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_stopped_at_a_look_or_between_two_has_its_tokens(ours, pairs, tmp_path, step):
    """A heat map of zeros, because the look at that very step kept sums only."""
    run = dpo.train(ours, pairs, tmp_path, watch=lambda rows, at, steps: at == step)
    looks = history.looks(run.path)
    assert looks.steps == sorted({0, 2, step})
    chosen, _ = looks.earned(1)
    last = looks.table[looks.table.step == step].set_index("pair")
    assert sum(chosen) == pytest.approx(last.reward_chosen[1], abs=1e-3)
    assert any(chosen)


def test_hostile_line_breaks_in_a_pair_survive_a_restart(ours, rows, tmp_path):
    """U+2028 in a text ended the reading of the history, and the policy of then became the start of all rewards."""
    import datasets

    row = rows["dpo"][0]
    evil = row | {"prompt": [{"role": "user", "content": "rain\u2028bread\x85\ud7ff"}]}
    pairs = {"train": rows["dpo"], "held_out": datasets.Dataset.from_list([evil, rows["dpo"][1]])}

    interrupted(ours, pairs, tmp_path, 3)
    looks = history.looks(dpo.train(ours, pairs, tmp_path, watch=SILENT).path)
    assert looks.steps == [0, 2, 4, 6]
    assert looks.pairs[0]["prompt"] == evil["prompt"]
    assert looks.margins(0) == [0.0, 0.0]


def test_a_lost_start_is_said_and_not_replaced(ours, pairs, tmp_path, capsys):
    """The policy of step 4 taken for the reference would make every later reward wrong, and silently."""
    interrupted(ours, pairs, tmp_path, 5)
    file = tmp_path / ".dpo.work" / "history.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"logps"' not in line))
    run = dpo.train(ours, pairs, tmp_path, watch=SILENT)
    assert "goes on without looking" in capsys.readouterr().out
    with pytest.raises(FileProblem, match="did not look"):
        history.looks(run.path)


def test_looks_are_no_part_of_what_a_run_is(ours, pairs, tmp_path):
    """They change no weight: a finished run must not be refused, or trained anew, for a look more."""
    run = dpo.train(ours, pairs, tmp_path, watch=SILENT)
    again = dpo.train(replace(ours, dpo=replace(ours.dpo, looks=1, looked_pairs=2)), pairs, tmp_path, watch=SILENT)
    assert again.meta == run.meta
