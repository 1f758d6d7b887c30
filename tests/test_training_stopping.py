"""A run that is asked to end. Run alone: python -m pytest tests/test_training_stopping.py"""

import os
import signal
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from hermes_nb import dpo, history, pipeline, runs, sft
from hermes_nb.errors import RunProblem
from hermes_nb.training import newest
from hermes_nb.training.stopping import Stop

pytestmark = pytest.mark.usefixtures("frozen")
STEPS = 6


def after(step):
    """A watcher that asks for the end at a step."""
    return lambda rows, at, steps: at == step


@pytest.fixture
def ours(recipe):
    more = {"max_steps": STEPS, "checkpoints": 1, "learning_rate": 1e-3, "reference": "on_the_fly", "looks": 2}
    return replace(recipe, sft=None, dpo=replace(recipe.dpo, **more))


def weights(run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def test_a_stopped_run_leaves_a_checkpoint_and_an_adapter(ours, rows, tmp_path):
    """Who stops a run wants what it has learned, not an error."""
    pairs = {"train": rows["dpo"], "held_out": rows["dpo"]}
    run = dpo.train(ours, pairs, tmp_path, watch=after(2))
    assert run.meta["stopped"] == {"step": 2, "of": STEPS}
    assert run.metrics["steps"] == 2
    assert load_file(run.adapter / "adapter_model.safetensors")
    assert newest(run.path / "checkpoints").name == "checkpoint-2"
    runs.verify(run.path)
    assert history.looks(run.path).steps == [0, 2], "it was seen as it ended"


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_same_call_goes_on_and_ends_in_the_same_bytes(ours, recipe, rows, tmp_path, stage):
    """A stop must cost nothing but the time until one goes on."""
    if stage == "sft":
        ours = replace(recipe, sft=replace(recipe.sft, max_steps=STEPS, checkpoints=1, learning_rate=1e-3))
    train = {"sft": sft.train, "dpo": dpo.train}[stage]
    straight = train(ours, rows[stage], tmp_path / "a", watch=lambda *a: None)
    steps = []
    train(ours, rows[stage], tmp_path / "b", watch=after(2))
    train(ours, rows[stage], tmp_path / "b", watch=lambda rows, at, of: steps.append(at) or at == 4)
    last = train(ours, rows[stage], tmp_path / "b", watch=lambda rows, at, of: steps.append(at))
    assert steps == [3, 4, 5, 6]
    assert weights(last) == weights(straight)
    assert last.meta["stopped"] is None
    table = history.load(last.path)
    assert history.series(table, "loss").index.tolist() == [1, 2, 3, 4, 5, 6]
    again = train(ours, rows[stage], tmp_path / "b", watch=lambda *a: None)
    assert again.meta == last.meta, "a finished run is not run again"


def test_a_stop_at_the_last_step_is_no_stop(ours, rows, tmp_path):
    """The run is done; it must not be begun anew."""
    run = dpo.train(ours, rows["dpo"], tmp_path, watch=after(STEPS))
    assert run.meta["stopped"] is None


def test_an_interrupt_ends_the_run_after_its_step(ours, rows, tmp_path):
    """Ctrl-C, and the stop button of a notebook, threw away everything since the last checkpoint."""

    def interrupt(rows, at, steps):
        if at == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = dpo.train(ours, rows["dpo"], tmp_path, watch=interrupt)
    assert run.meta["stopped"] == {"step": 3, "of": STEPS}
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_interrupts(ours, rows, tmp_path):
    """Who presses twice does not want to wait for the step."""
    seen = []

    def twice(rows, at, steps):
        seen.append(at)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        dpo.train(ours, rows["dpo"], tmp_path, watch=twice)
    assert seen == [1]
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "dpo").exists()


def test_in_another_thread_no_handler_is_set():
    """Python allows it in the main thread alone, and raises elsewhere."""
    import threading

    before, done = signal.getsignal(signal.SIGINT), []

    def work():
        with Stop().listening():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]


def test_transformers_is_told_to_save_and_to_end():
    """An end without a saved state could not be gone on from."""
    stop, control = Stop(), TrainerControl()
    assert not stop.apply(TrainerState(global_step=1, max_steps=3), control)
    stop.asked = True
    assert stop.apply(TrainerState(global_step=1, max_steps=3), control)
    assert control.should_save
    assert control.should_training_stop


def test_a_stage_of_another_recipe_is_never_taken_apart(ours, rows, tmp_path):
    """Two processes that ask at once: the second must not delete, or continue, what the first has finished."""
    run = dpo.train(ours, rows["dpo"], tmp_path, watch=lambda *a: None)
    for key in ("another", run.meta["key"]):
        with pytest.raises(RunProblem, match="made meanwhile"), runs.stage(tmp_path, "dpo", key):
            pass
    runs.verify(run.path)


def test_a_kill_while_a_stage_is_sealed_loses_nothing(ours, rows, tmp_path, monkeypatch):
    """Who presses Ctrl-C twice does so just then: hours of training were thrown away by the next call."""
    real = runs.seal

    def kill(folder):
        if folder.name == ".dpo.work":
            raise KeyboardInterrupt
        return real(folder)

    monkeypatch.setattr(runs, "seal", kill)
    with pytest.raises(KeyboardInterrupt):
        dpo.train(ours, rows["dpo"], tmp_path, watch=lambda *a: None)
    monkeypatch.setattr(runs, "seal", real)
    steps = []
    run = dpo.train(ours, rows["dpo"], tmp_path, watch=lambda rows, at, of: steps.append(at))
    assert steps in ([], [STEPS]), "the last state was there"
    assert run.metrics["steps"] == STEPS
    assert not (run.path / "begun.json").exists()
    runs.verify(run.path)


def test_a_dashboard_hears_that_the_run_is_over(ours, rows, tmp_path):
    """By its end, a stop or an error: a figure with a dead button helps nobody."""
    told = []

    class Watch:
        def __call__(self, rows, step, steps):
            if len(told) == 1:
                raise ZeroDivisionError

        def over(self, rows):
            told.append(len(rows))

    dpo.train(ours, rows["dpo"], tmp_path / "a", watch=Watch())
    with pytest.raises(ZeroDivisionError):
        dpo.train(ours, rows["dpo"], tmp_path / "b", watch=Watch())
    assert len(told) == 2


@pytest.mark.parametrize("moment", ["begun", "moved"])
def test_a_kill_while_a_stopped_run_is_opened_again_loses_nothing(ours, rows, tmp_path, monkeypatch, moment):
    """Between the final name and the work folder there must be no moment at which both are gone."""
    dpo.train(ours, rows["dpo"], tmp_path / "b", watch=after(2))
    straight = dpo.train(ours, rows["dpo"], tmp_path / "a", watch=lambda *a: None)
    real = os.replace

    class Kill(BaseException):
        pass

    def replace_then_die(source, target):
        if str(target).endswith(".dpo.work"):
            if moment == "moved":
                real(source, target)
            raise Kill
        return real(source, target)

    monkeypatch.setattr(runs.os, "replace", replace_then_die)
    with pytest.raises(Kill):
        dpo.train(ours, rows["dpo"], tmp_path / "b", watch=lambda *a: None)
    monkeypatch.setattr(runs.os, "replace", real)
    steps = []
    run = dpo.train(ours, rows["dpo"], tmp_path / "b", watch=lambda rows, at, of: steps.append(at))
    assert steps == [3, 4, 5, 6]
    assert weights(run) == weights(straight)


def test_the_pipeline_ends_where_a_stage_was_stopped(recipe, rows, tmp_path, monkeypatch):
    """DPO from a half-trained SFT adapter, because somebody pressed Ctrl-C, would look like a result."""
    ours = replace(recipe, sft=replace(recipe.sft, max_steps=4), dpo=replace(recipe.dpo, max_steps=2))
    monkeypatch.setattr(pipeline, "rows_of", lambda out, name: {"train": rows[name]})
    real = sft.train
    monkeypatch.setattr(sft, "train", lambda *given: real(*given, watch=after(2)))
    for stages in (("sft", "dpo"), ("dpo",), ("merge",), ("evaluate",)):
        with pytest.raises(RunProblem, match=r"stopped after step 2 of 4; the same command with that stage goes on"):
            pipeline.run(ours, tmp_path, stages)
        monkeypatch.setattr(sft, "train", real)  # of the later commands none trains it
    assert not (tmp_path / "dpo").exists()
    monkeypatch.setattr(sft, "train", real)
    pipeline.run(ours, tmp_path, ("sft",))
    assert runs.Run(tmp_path / "sft").metrics["steps"] == 4
