"""Run alone: python -m pytest tests/test_training_trackers.py"""

import importlib.util
import json
import os
import sqlite3
import sys
import threading
import time
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from hermes_nb import dpo, history, recipes, runs, sft, training
from hermes_nb.errors import RecipeProblem, ResourceProblem

OWN = {"seconds", "peak_gb"}  # rows of a history that are not in a trainer's log
LAST = ("held_out", "loss", 3)


def tracked_by(recipe, name):
    """The recipe with a tracker, and with the scores of held-out rows, which are logged behind the last step."""
    stages = {s: replace(part, score_held_out=True) for s, part in (("sft", recipe.sft), ("dpo", recipe.dpo))}
    return replace(recipe, report_to=name, **stages)


@pytest.fixture
def recipe(recipe):
    """No looks at the held-out pairs, which take longer than three steps."""
    return replace(recipe, dpo=replace(recipe.dpo, looks=0))


@pytest.fixture
def trackio_dir(tmp_path, monkeypatch):
    """A folder of its own for Trackio, which reads its variable once, when it is imported."""
    importlib.import_module("trackio")
    folder = tmp_path / "trackio"
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio" and "TRACKIO_DIR" in vars(module):
            monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    return folder


def train_dpo(recipe, rows, out):
    """A run of three steps, its held-out pairs scored at its end."""
    return dpo.train(recipe, {"train": rows["dpo"], "held_out": rows["dpo"]}, out, watch=lambda *a: None)


def of_history(run):
    """{(split, our metric, step): value} of what the trainer logged."""
    table = history.load(run.path)
    table = table[~table.metric.isin(OWN) & table.split.isin(("train", "held_out"))]
    keys = zip(table.split, table.metric, table.step, strict=True)
    return dict(zip(keys, table.value, strict=True))


def ours(logged):
    """The same, out of what a tracker holds as {(its name, step): value}."""
    out = {}
    for (name, step), value in logged.items():
        split, _, metric = name.partition("/")
        for row in history.entries({f"eval_{metric}" if split == "eval" else metric: value}, step):
            out[row["split"], row["metric"], step] = row["value"]
    return out


def same(logged, run):
    """Compare a tracker with the history of the run: every metric of every step, held-out scores too."""
    wanted = of_history(run)
    assert {key for key in wanted if key[1] == "loss"} == {*(("train", "loss", s) for s in (1, 2, 3)), LAST}
    assert run.path.name == "sft" or ("train", "margin", 3) in wanted
    assert ours(logged) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def scalars(folder):
    """{(name, step): value} of TensorBoard's event files, which must hold no step twice."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    board = EventMultiplexer().AddRunsFromDirectory(str(folder))
    board.Reload()
    out = {}
    for run, tags in board.Runs().items():
        for tag in tags["scalars"]:
            for event in board.Scalars(run, tag):
                assert (tag, event.step) not in out or tag == "train/epoch"  # written with the scores again
                out[tag, event.step] = event.value
    return out


def test_tensorboard_holds_what_the_history_holds(recipe, rows, tmp_path, monkeypatch):
    """Curves in the wrong folder, or without the held-out scores, which are logged behind the last step."""
    monkeypatch.chdir(tmp_path)
    run = train_dpo(tracked_by(recipe, "tensorboard"), rows, tmp_path / "out")
    same(scalars(run.path / "tracker"), run)
    assert not list((run.path / "checkpoints").rglob("events.*"))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    runs.verify(run.path)  # nothing is written into a sealed run
    assert not [thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboard")]


def test_sft_is_reported_as_well(recipe, rows, tmp_path):
    """One stage that forgets the tracker."""
    given = {"train": rows["sft"], "held_out": rows["sft"]}
    run = sft.train(tracked_by(recipe, "tensorboard"), given, tmp_path, watch=lambda *a: None)
    same(scalars(run.path / "tracker"), run)


def of_trackio(folder, project):
    """{run name: {(metric, step): value}} as Trackio's own file holds it; a step must not be there twice."""
    out = {}
    with sqlite3.connect(folder / f"{project}.db") as base:
        for name, metrics in base.execute("SELECT run_name, metrics FROM metrics ORDER BY id"):
            line = json.loads(metrics)
            step = line.pop("train/global_step")
            kept = out.setdefault(name, {})
            for metric, value in line.items():
                assert (metric, step) not in kept or metric == "train/epoch"
                kept[metric, step] = value
    return out


def test_trackio_holds_what_the_history_holds(recipe, rows, tmp_path, trackio_dir, monkeypatch):
    """What is logged behind the last step stays in memory; two runs in a row are added up to one curve."""
    moments = iter(("20300101-000000", "20300101-000001"))
    monkeypatch.setattr(time, "strftime", lambda form: next(moments))
    named = tracked_by(recipe, "trackio")
    for name in ("first", "second"):
        run = train_dpo(named, rows, tmp_path / name)
        logged = of_trackio(trackio_dir, "course")
        same(logged[(run.path / "tracker" / "name.txt").read_text().strip()], run)
        runs.verify(run.path)
    assert sorted(logged) == ["course-tiny-dpo-20300101-000000", "course-tiny-dpo-20300101-000001"]


def test_trackio_neither_calls_the_hub_nor_serves_a_dashboard(recipe, rows, tmp_path, trackio_dir, monkeypatch):
    """It asks the hub who the token's owner is; in a notebook it starts a server, on Colab under a public address."""
    import huggingface_hub
    import trackio
    from trackio import utils

    called = []
    monkeypatch.setattr(huggingface_hub, "whoami", lambda **given: called.append("whoami") or {"name": "somebody"})
    monkeypatch.setattr(trackio, "show", lambda **given: called.append("show"))
    monkeypatch.setattr(utils, "is_in_notebook", lambda: True)
    trackio.context_vars.current_project.set(None)
    before = trackio.init, trackio.run.Run._get_username
    train_dpo(tracked_by(recipe, "trackio"), rows, tmp_path)
    assert called == []
    assert (trackio.init, trackio.run.Run._get_username) == before
    assert trackio.context_vars.current_run.get() is None
    trackio.context_vars.current_project.set(None)
    trackio.init("course")  # as it comes: so it is these two that have to be kept quiet
    trackio.finish()
    assert set(called) == {"whoami", "show"}


def test_a_run_that_was_stopped_goes_on_in_the_same_curve(recipe, rows, tmp_path, trackio_dir):
    """Two halves under two names, or a step that is there twice."""
    named = tracked_by(recipe, "trackio")
    given = {"train": rows["dpo"], "held_out": rows["dpo"]}
    half = dpo.train(named, given, tmp_path, watch=lambda rows, step, steps: step == 2)
    assert half.meta["stopped"]
    run = train_dpo(named, rows, tmp_path)
    ((_, logged),) = of_trackio(trackio_dir, "course").items()
    same(logged, run)


def test_wandb_is_told_where_and_is_closed(recipe, tmp_path, monkeypatch):
    """Its folder would be made wherever the notebook runs; what it still writes after a run must not be in a stage."""
    seen = {}
    fake = ModuleType("wandb")
    fake.__spec__, fake.finish = ModuleSpec("wandb", None), lambda: seen.update(finished=True)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_DIR", raising=False)

    def fit():
        seen.update(folder=os.environ["WANDB_DIR"], project=os.environ["WANDB_PROJECT"])
        handler = SimpleNamespace(callbacks=[])
        return SimpleNamespace(trainer=SimpleNamespace(callback_handler=handler))

    training.tracked(replace(recipe, report_to="wandb"), tmp_path / ".dpo.work", fit)
    assert seen == {"folder": str(tmp_path), "project": "mine", "finished": True}
    assert "WANDB_DIR" not in os.environ


def test_a_tracker_changes_neither_the_key_nor_a_weight(recipe, rows, tmp_path):
    """A run must be found again whoever looked on."""
    seen = replace(recipe, report_to="tensorboard")
    for stage in ("format", "sft", "dpo", "merge", "evaluate"):
        assert runs.recipe_key(seen.to_dict(), stage) == runs.recipe_key(recipe.to_dict(), stage)
    first, second = train_dpo(recipe, rows, tmp_path / "a"), train_dpo(seen, rows, tmp_path / "b")
    digests = [runs.file_digest(run.adapter / "adapter_model.safetensors") for run in (first, second)]
    assert digests[0] == digests[1]
    assert train_dpo(seen, rows, tmp_path / "a") == first


def test_without_a_tracker_nothing_is_written(recipe, rows, tmp_path, monkeypatch, trackio_dir):
    """Installed packages must not switch themselves on."""
    monkeypatch.chdir(tmp_path)
    run = train_dpo(recipe, rows, tmp_path / "out")
    assert not (run.path / "tracker").exists()
    assert not trackio_dir.exists()
    assert not list(tmp_path.rglob("events.*"))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_said_before_a_model_is_loaded(recipe, rows, tmp_path, monkeypatch, name):
    """Minutes of loading, then a traceback out of transformers."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *a: None if wanted == name else find(wanted, *a))
    loaded = []
    monkeypatch.setattr(training.staging, "opened", lambda *a: loaded.append(a))
    monkeypatch.setattr(training, "opened", lambda *a: loaded.append(a))
    with pytest.raises(ResourceProblem, match=f"pip install {name}"):
        train_dpo(replace(recipe, report_to=name), rows, tmp_path)
    assert not loaded
    assert not (tmp_path / "dpo").exists()


def test_an_interrupted_run_goes_on_under_its_name_and_another_is_another(recipe, tmp_path):
    """A tracker adds to the run of the same name: a new run would be drawn behind an old one."""
    seen = tracked_by(recipe, "trackio")
    work = tmp_path / ".dpo.work"
    work.mkdir()
    first = training.tracking(seen, "dpo", work)
    assert first == training.tracking(seen, "dpo", work)
    assert first["run_name"].startswith("course-tiny-dpo-2")
    (work / "tracker" / "name.txt").write_text("course-tiny-dpo-then\n")
    assert training.tracking(seen, "dpo", work)["run_name"] == "course-tiny-dpo-then"
    assert training.tracking(recipe, "dpo", tmp_path / "none") == {"report_to": "none"}


def test_the_key_is_one_word_of_the_recipe():
    """--set report_to=trackio on the command line; a word that is no tracker is refused."""
    assert recipes.load("course", "tiny").report_to == "none"
    assert recipes.load("course", "tiny", overrides=["report_to=trackio"]).report_to == "trackio"
    assert recipes.load("course", "tiny", overrides=["report_to=none"]).report_to == "none"
    with pytest.raises(RecipeProblem, match="report_to"):
        recipes.load("course", "tiny", overrides=["report_to=tensorbord"])


def test_the_environment_is_as_it_was(recipe, tmp_path, monkeypatch):
    """The next run of the session would write into this one's folder."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")

    def failing():
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tracker")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training.tracked(tracked_by(recipe, "tensorboard"), tmp_path, failing)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/elsewhere"
