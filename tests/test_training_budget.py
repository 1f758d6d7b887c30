"""How many tokens at once. Run alone: python -m pytest tests/test_training_budget.py"""

import json
import math
import sys
from dataclasses import replace

import pytest

from hermes_nb import runs, sft
from hermes_nb.training import budget, engine
from hermes_nb.training.budget import SMALL, candidates, plan

pytestmark = pytest.mark.usefixtures("frozen")
SILENT = lambda *a: None  # noqa: E731


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of known rates, in a cache of this test."""
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "budgets.json"


def clock(rates: dict):
    """`seconds(tokens)` from seconds a token, and the sizes that were asked for."""
    asked = []

    def seconds(tokens):
        asked.append(tokens)
        return rates[tokens] * tokens

    return seconds, asked


def never(tokens):
    raise AssertionError("nothing should be measured")


@pytest.mark.parametrize(
    ("largest", "step", "fits", "sizes"),
    [
        (300, 1000, 10**6, [1000]),  # a small step is not cut
        (300, 1024, 10**6, [1024]),
        (300, 1025, 10**6, [1024, 1025]),
        (300, 5000, 10**6, [1024, 2048, 4096, 5000]),
        (1500, 5000, 10**6, [2048, 4096, 5000]),  # a row must fit into a part
        (2048, 5000, 10**6, [2048, 4096, 5000]),
        (300, 5000, 3000, [1024, 2048, 3000]),  # memory allows no more
        (300, 5000, 500, [500]),
        (900, 5000, 500, [900]),  # one row at the least, whatever the estimate says
        (300, 5000, sys.maxsize, [1024, 2048, 4096, 5000]),
        (5000, 5000, 10**6, [5000]),
        (300, 5000, 0, [300]),
    ],
)
def test_candidates_by_hand(largest, step, fits, sizes):
    """Powers of two from SMALL up to a whole step; never more than fits, never less than a row."""
    assert candidates(largest, step, fits) == sizes
    assert SMALL == 1024


@pytest.mark.parametrize(
    ("step", "fits", "reason"), [(900, 10**6, "a whole step"), (5000, 700, "memory allows no more")]
)
def test_one_candidate_is_not_measured(step, fits, reason, file):
    """A course of small steps must not begin with a benchmark."""
    found = plan(300, step, fits, "key", never)
    assert (found.tokens, found.reason, found.halvings) == (min(step, fits), reason, 0)
    assert not file.exists()


def test_the_fastest_is_taken_and_kept(file):
    """1024: 2 ms a token, 2048: 1, 4096: 1.05 (still looked beyond), 5000: 1.2, slower by over 10 %."""
    seconds, asked = clock({1024: 2e-3, 2048: 1e-3, 4096: 1.05e-3, 5000: 1.2e-3})
    found = plan(300, 5000, 10**6, "key", seconds)
    assert found.tokens == 2048
    assert found.reason == (
        "fastest of those measured here, in tokens a second: 500 at 1024, 1000 at 2048, 952 at 4096, 833 at 5000"
    )
    assert asked == [1024, 2048, 4096, 5000]
    assert json.loads(file.read_text())["key"] == pytest.approx(
        {"1024": 2e-3, "2048": 1e-3, "4096": 1.05e-3, "5000": 1.2e-3}
    )
    assert plan(300, 5000, 10**6, "key", never) == found


def test_measuring_stops_where_it_only_grows_from_here(file):
    """The largest part costs most to measure: 1.2 ms after 1 ms is enough to know."""
    seconds, asked = clock({1024: 1e-3, 2048: 1.2e-3})
    assert plan(300, 5000, 10**6, "key", seconds).tokens == 1024
    assert asked == [1024, 2048]
    assert plan(300, 5000, 10**6, "key", never).tokens == 1024


def test_only_what_is_not_known_is_measured(file):
    """Another step of the same model asks for one size more; another model for all."""
    plan(300, 3000, 10**6, "key", clock({1024: 2e-3, 2048: 1e-3, 3000: 1e-3})[0])
    seconds, asked = clock({4096: 0.9e-3})
    assert plan(300, 4096, 10**6, "key", seconds).tokens == 4096
    assert asked == [4096]
    seconds, asked = clock({1024: 1e-3, 2048: 2e-3})
    plan(300, 4096, 10**6, "other", seconds)
    assert asked == [1024, 2048]
    assert set(json.loads(file.read_text())["key"]) == {"1024", "2048", "3000", "4096"}


@pytest.mark.parametrize("text", ["", "{", "\0\0"])
def test_a_damaged_file_is_measured_anew(text, file):
    """It is a convenience: a kill in mid-write must not stop the next run."""
    file.parent.mkdir()
    file.write_text(text)
    seconds, asked = clock({1024: 1e-3, 2048: 2e-3})
    assert plan(300, 4096, 10**6, "key", seconds).tokens == 1024
    assert asked
    assert "key" in json.loads(file.read_text())


def test_what_runs_out_of_memory_is_not_chosen(file):
    """Measured as endless, it is neither the fastest nor remembered: another day there may be more memory."""
    seconds, _ = clock({1024: 2e-3, 2048: 1e-3, 4096: math.inf})
    assert plan(300, 5000, 10**6, "key", seconds).tokens == 2048
    assert all(math.isfinite(rate) for rate in json.loads(file.read_text())["key"].values())


def test_the_engine_measures_the_rows_at_hand_once(recipe, rows, cpu_fp32, file, tmp_path, monkeypatch):
    """From the recipe to `run.json`; a second run of this machine measures nothing."""
    plain, asked = engine.timed, []
    monkeypatch.setattr(budget, "SMALL", 64)
    monkeypatch.setattr(engine, "timed", lambda trainer, tokens: asked.append(tokens) or plain(trainer, tokens))
    first = sft.train(recipe, rows["sft"], tmp_path / "a", watch=SILENT).meta["engine"]["budget"]
    assert asked
    assert first["tokens"] in asked
    assert first["reason"].startswith("fastest of those measured here, in tokens a second: ")
    measured, number = list(asked), len(asked)
    second = sft.train(recipe, rows["sft"], tmp_path / "b", watch=SILENT).meta["engine"]["budget"]
    assert len(asked) == number, measured
    assert second == first


def test_measuring_changes_no_byte_of_the_run(recipe, rows, cpu_fp32, file, tmp_path, monkeypatch):
    """Dropout is drawn in the measured passes as well; the run, cut the same in both, must not notice."""
    noisy, adapters, measured = replace(recipe, lora=replace(recipe.lora, dropout=0.2)), [], []
    for name, small in (("a", 10**6), ("b", 64)):
        monkeypatch.setattr(budget, "SMALL", small)
        monkeypatch.setattr(engine, "plan", lambda *given: replace(plan(*given), tokens=10**6))
        run = sft.train(noisy, rows["sft"], tmp_path / name, watch=SILENT)
        measured.append("measured" in run.meta["engine"]["budget"]["reason"])
        adapters.append((run.adapter / "adapter_model.safetensors").read_bytes())
    assert measured == [False, True]
    assert adapters[0] == adapters[1]


def test_the_recipe_s_own_budget_is_taken(recipe, rows, cpu_fp32, file, tmp_path):
    """Nothing is measured, and a run can be repeated elsewhere."""
    ours = replace(recipe, sft=replace(recipe.sft, tokens_at_once=70))
    run = sft.train(ours, rows["sft"], tmp_path, watch=SILENT)
    assert run.meta["engine"]["budget"] == {"tokens": 70, "reason": "the recipe says so", "halvings": 0}
    assert runs.read_json(run.path / "engine.json")["budget"]["tokens"] == 70
    assert not file.exists()
