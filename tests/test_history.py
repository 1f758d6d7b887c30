"""Run alone: python -m pytest tests/test_history.py"""

import json

import pytest

from hermes_nb import history
from hermes_nb.errors import FileProblem


def test_names_are_the_courses_own():
    """rewards/margins in one place and margin in another: nobody finds anything."""
    rows = history.entries({"loss": 0.5, "rewards/margins": 1.0, "eval_rewards/accuracies": 0.75, "epoch": 1.0}, 3)
    assert rows == [
        {"step": 3, "split": "train", "metric": "loss", "value": 0.5},
        {"step": 3, "split": "train", "metric": "margin", "value": 1.0},
        {"step": 3, "split": "held_out", "metric": "accuracy", "value": 0.75},
    ]


def test_bookkeeping_is_no_metric():
    """Runtime and FLOPs of the trainer would show as curves."""
    log = {"train_runtime": 3.0, "train_loss": 0.1, "total_flos": 1e9, "eval_runtime": 1.0, "epoch": 1.0, "text": "x"}
    assert history.entries(log, 1) == []


def test_a_stage_folder_is_read_as_a_tidy_frame(tmp_path):
    """One frame for plots, tables and comparisons of runs."""
    rows = history.entries({"loss": 0.5}, 1) + history.entries({"loss": 0.4, "eval_loss": 0.6}, 2)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = history.load(tmp_path)
    assert list(table.columns) == ["run", "step", "split", "metric", "value"]
    assert history.series(table, "loss").to_dict() == {1: 0.5, 2: 0.4}
    assert history.series(table, "loss", "held_out").to_dict() == {2: 0.6}


def test_a_missing_or_damaged_history_is_said(tmp_path):
    """The file and the next step."""
    with pytest.raises(FileProblem, match=r"no history\.jsonl"):
        history.load(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"step": 1,')
    with pytest.raises(FileProblem, match="damaged"):
        history.load(tmp_path)
