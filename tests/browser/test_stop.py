"""A real DPO run of the built-in model, stopped by hand.

Run alone: python -m pytest -m browser tests/browser/test_stop.py
Two to three minutes on two cores.
"""

import json
import re

import pytest

from browser.server import until

pytestmark = pytest.mark.browser

START = """
import os
os.environ["HERMES_RUNS"] = {runs!r}
from hermes_nb import runtime

runtime.quiet()  # as the first cell of every notebook does, before anything else is imported
from hermes_nb import dpo, lessons, pipeline, widgets

start = lessons.begin("dpo", "tiny")
recipe, out = start.recipe, start.out
pipeline.format_rows(recipe, out)
rows = pipeline.rows_of(out, "dpo")
"""
TRAIN = 'run = dpo.train(recipe, rows, out, start=start.adapters.get("sft"), watch=widgets.Live())'


def step(cell, folder) -> int:
    """The newest step that the dashboard names or the history of the running stage holds."""
    named = re.search(r"step (\d+) of", cell.text())
    file = folder / ".dpo.work" / "history.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[:-1] if file.is_file() else []  # the last may be half written
    return max([int(named[1]) if named else 0, *(json.loads(line).get("step", 0) for line in lines)])


def test_stop_leaves_a_checkpoint_and_an_adapter(lab, tmp_path):
    """A button that loses the training that a reader wanted to end a little earlier."""
    from safetensors.numpy import load_file

    folder = tmp_path / "course-tiny"
    notebook = lab.open(lab.write("stop.ipynb", START.format(runs=str(tmp_path)), TRAIN))
    notebook.run_all()
    cell = notebook.cell("dpo.train(")
    until(lambda: step(cell, folder) >= 2, 600, "two steps are done")
    assert len(cell.pictures()) == 1
    lab.shot("running")
    cell.button("Stop").press("Space")
    lab.shot("asked to stop")
    notebook.wait_until_idle(300)
    lab.shot("stopped")
    assert notebook.errors() == []
    assert len(cell.pictures()) == 1
    assert cell.button("Stop").count() == 0

    told = json.loads((folder / "dpo" / "run.json").read_text(encoding="utf-8"))
    last, total = told["stopped"]["step"], told["stopped"]["of"]
    assert 2 <= last == told["metrics"]["steps"] < total
    assert (folder / "dpo" / "checkpoints" / f"checkpoint-{last}").is_dir()
    weights = load_file(folder / "dpo" / "adapter" / "adapter_model.safetensors")
    assert len(weights) > 0
    assert all((abs(value.astype("float32")) < 1e3).all() for value in weights.values())
