"""The stage `format`. Run alone: python -m pytest tests/test_formatting.py"""

import json
from dataclasses import replace

import pytest

from hermes_nb import formatting, runs
from hermes_nb.errors import DataProblem, FileProblem
from hermes_nb.recipes import Source


def source(path, rows, **how):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source("orca_dpo_pairs", str(path), **how)


def row(i, **change):
    return {"system": "", "question": f"what is rain {i}", "chosen": f"a line {i}", "rejected": "bread"} | change


@pytest.fixture
def mixed(recipe, tmp_path):
    """A recipe without SFT; its pairs come from two small files, one question is also held out, one row is unusable."""
    train = (
        source(tmp_path / "a.jsonl", [row(i) for i in range(8)], share_of_source=0.5, take="first"),
        source(tmp_path / "b.jsonl", [row(9), row(20), {"system": ""}]),
    )
    held_out = (source(tmp_path / "h.jsonl", [row(20, chosen="other")]),)
    return replace(recipe, sft=None, dpo=replace(recipe.dpo, train=train, held_out=held_out))


def test_every_row_of_every_source_is_accounted_for(mixed, tmp_path):
    """Rows that no reader can use, or that are held out too, leave with a reason that stands in the run."""
    run = formatting.format_rows(mixed, tmp_path / "run")
    report = runs.read_json(run.path / "audit.json")["dpo_train"]
    assert (report["rows"], report["kept"], report["dropped"]) == (7, 5, 2)
    assert report["reasons"] == {"missing column": 1, "also held out": 1}
    kept = formatting.rows_of(tmp_path / "run", "dpo")["train"]
    assert sorted(kept["row"]) == [0, 0, 1, 2, 3]
    assert run.meta["metrics"] == {"rows": 8, "kept": 6, "dropped": 2}


def test_the_same_recipe_writes_the_same_rows(mixed, tmp_path):
    """Order and choice are a function of the seed alone, and nothing in the report tells the time."""
    first, second, other = (
        formatting.format_rows(replace(mixed, seed=seed), tmp_path / f"run{n}").path for n, seed in enumerate((0, 0, 1))
    )
    files = ["audit.json", "rows/dpo_train.parquet"]
    assert [(first / f).read_bytes() for f in files] == [(second / f).read_bytes() for f in files]
    assert (first / files[1]).read_bytes() != (other / files[1]).read_bytes()


def test_a_set_of_which_nothing_is_left_is_refused(mixed, tmp_path):
    """Training on no rows fails hours later, in words that do not name the data."""
    bad = replace(mixed, dpo=replace(mixed.dpo, max_length=4))
    with pytest.raises(DataProblem, match="dpo, held_out: nothing is left to use: 1 rows in, 0 kept"):
        formatting.format_rows(bad, tmp_path / "run")


def test_rows_that_are_not_there_are_said(tmp_path):
    """A later stage asked for alone must say which one comes first."""
    with pytest.raises(FileProblem, match="run the format stage first"):
        formatting.rows_of(tmp_path, "sft")
