"""Build a trainer with its adapters in fp32, train it, go on where an interrupted run stopped, score held-out rows."""

import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerState

from hermes_nb import history, models, packing, runs
from hermes_nb.errors import FileProblem, TrainingProblem
from hermes_nb.runtime import peak_gb
from hermes_nb.training.recorder import Recorder
from hermes_nb.training.watching import first_bad, weights

ADAPTERS = torch.float32  # what adapters are trained in


@dataclass
class Fitted:
    """Outcome of `fit`: the trainer, and what goes into `run.json`."""

    trainer: object
    metrics: dict


def newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint below a folder that is whole: its manifest stands and every file agrees with it."""
    for folder in sorted(Path(checkpoints).glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            runs.verify(folder)
            return folder
        except FileProblem:
            continue
    return None


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was saved; 0 for none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def _train(trainer, left: Path | None) -> None:
    """Train, from the state in `left` on; where that is the last one, take it: transformers 5.23 adds another step."""
    state = TrainerState.load_from_json(str(left / "trainer_state.json")) if left else None
    if state and state.global_step >= state.max_steps:
        trainer._load_from_checkpoint(str(left))
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(left) if left else None)


def fit(build, model, recorder: Recorder, score: bool, ready=lambda trainer: None) -> Fitted:
    """Build a trainer around `model` with its adapters kept in fp32, train, and `score` the held-out rows.

    `build()` returns the trainer; it may change the adapters' precision, which is undone; `ready(trainer)` is called
    after that. Where an interrupted run has left a whole checkpoint, it goes on from there. Returns the share of
    adapter entries that moved among the metrics.
    """
    with models.keep_fp32(model):
        trainer = build()
    _check(model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(recorder)
    before = models.snapshot(model)
    left = newest(Path(trainer.args.output_dir))
    for damaged in Path(trainer.args.output_dir).glob("checkpoint-*"):
        if step_of(damaged) > step_of(left):
            shutil.rmtree(damaged)  # transformers keeps the highest numbers, so these would push out the new ones
    recorder.go_on(step_of(left))
    begun = time.perf_counter()
    try:
        with sparing(trainer):
            ready(trainer)
            trainer._total_train_tokens = recorder.tokens()
            with recorder.stop.listening():
                _train(trainer, left)
            seconds = time.perf_counter() - begun - recorder.aside
            scores = trainer.evaluate() if score and not stopped(trainer) else {}
    except TrainingProblem as error:
        raise _kept(trainer, error) from error
    finally:
        recorder.close()
        packing.uninstall(trainer.model.get_base_model())
    last = newest(Path(trainer.args.output_dir))
    for old in Path(trainer.args.output_dir).glob("checkpoint-*"):
        if old != last:
            shutil.rmtree(old)  # two are kept while the run goes on, since a kill may cut the newest
    return Fitted(trainer, _metrics(trainer, recorder, before, seconds, scores, left))


def stopped(trainer) -> dict | None:
    """`{step, of}` of a run that was asked to end before its last step, else None."""
    step, steps = trainer.state.global_step, trainer.state.max_steps
    return {"step": step, "of": steps} if step < steps else None


def _check(model) -> None:
    rounded = [n for n, p in weights(model) if p.dtype != ADAPTERS]
    if rounded:
        raise TrainingProblem(
            f"{len(rounded)} adapter tensors are not fp32 ({rounded[0]}): updates of a small learning rate would round "
            f"to nothing. Build the trainer inside models.keep_fp32."
        )
    bad = first_bad(weights(model))
    if bad:
        raise TrainingProblem(f"{bad} is not finite before the first step; start from an adapter that is whole.")


@contextmanager
def sparing(trainer):
    """Spare the copies of every layer's input that PEFT makes in fp32, and let the head's fp32 products use TF32.

    Under autocast the adapters' products are computed in 16 bits either way, so the copies change no number. TF32
    keeps ten bits behind the point and adds in fp32: nothing is lost of the 16-bit numbers that come into the head, and
    of the gradient that goes back less than bf16 would lose.
    """
    from peft.helpers import disable_input_dtype_casting

    precision = torch.get_float32_matmul_precision()
    autocast = trainer.args.bf16 or trainer.args.fp16
    if autocast and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        with disable_input_dtype_casting(trainer.model, active=autocast):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _kept(trainer, error: TrainingProblem) -> TrainingProblem:
    """Save the adapter where its numbers are still good, and say where the last good state lies.

    Beside the stage's folder, whose work is thrown away once the recipe is changed.
    """
    checkpoints, step = Path(trainer.args.output_dir), trainer.state.global_step
    good = newest(checkpoints)
    if step and first_bad(weights(trainer.model)) is None:
        good = checkpoints.parent.parent / f"{trainer._name.lower()}-last-good"
        shutil.rmtree(good, ignore_errors=True)
        trainer.save_model(str(good))
        (good / "training_args.bin").unlink(missing_ok=True)
        runs.seal(good)
    return type(error)(f"{error} The last good state is {good}." if good else f"{error} Nothing was saved before.")


def _metrics(trainer, recorder: Recorder, before: dict, seconds: float, scores: dict, left: Path | None) -> dict:
    steps = trainer.state.global_step
    done = steps - step_of(left)
    metrics = {
        "steps": steps,
        "train_seconds": round(recorder.passed + seconds, 1),
        "seconds_per_step": round(seconds / max(1, done), 3),
        "moved": round(models.moved(before, models.snapshot(trainer.model)), 6),
        "trainable_parameters": sum(t.numel() for t in before.values()),
        "peak_gb": round(peak_gb(), 2),
    }
    if recorder.notes:
        metrics["notes"] = recorder.notes
    held = {f"held_out_{r['metric']}": r["value"] for r in history.entries(scores, steps) if r["split"] == "held_out"}
    last = {r["metric"]: r["value"] for r in recorder.rows if r["split"] == "train"}
    if recorder.aside:
        metrics["look_seconds"] = round(recorder.aside, 1)
    return metrics | {f"train_{k}": v for k, v in last.items() if k not in ("seconds", "peak_gb")} | held
