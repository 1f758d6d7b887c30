"""Build a trainer with its adapters in fp32, train it, go on where an interrupted run stopped, score held-out rows."""

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PrinterCallback

from hermes_nb import history, models, runs
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
    found = [(int(p.name.split("-")[1]), p) for p in Path(checkpoints).glob("checkpoint-*") if p.is_dir()]
    for _, folder in sorted(found, reverse=True):
        try:
            runs.verify(folder)
            return folder
        except FileProblem:
            continue
    return None


def fit(build, model, recorder: Recorder, score: bool, ready=lambda trainer: None) -> Fitted:
    """Build a trainer around `model` with its adapters kept in fp32, train, and `score` the held-out rows.

    `build()` returns the trainer; it may change the adapters' precision, which is undone; `ready(trainer)` is called
    after that. Where an interrupted run has
    left a whole checkpoint, it goes on from there. Returns the share of adapter entries that moved among the metrics.
    """
    with models.keep_fp32(model):
        trainer = build()
    _check(model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(recorder)
    before = models.snapshot(model)
    left = newest(Path(trainer.args.output_dir))
    if left is not None:
        recorder.go_on(int(left.name.split("-")[1]))
    begun = time.perf_counter()
    try:
        with sparing(trainer):
            ready(trainer)
            trainer.train(resume_from_checkpoint=str(left) if left else None)
            seconds = time.perf_counter() - begun
            scores = trainer.evaluate() if score else {}
    except TrainingProblem as error:
        raise _kept(trainer, error) from error
    finally:
        recorder.close()
    return Fitted(trainer, _metrics(trainer, recorder, before, seconds, scores, left))


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
    keeps ten bits behind the point, as many as the 16-bit numbers that come in have or more, and adds in fp32.
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
    """Save the adapter where its numbers are still good, and say where the last good state lies."""
    checkpoints, step = Path(trainer.args.output_dir), trainer.state.global_step
    if step and first_bad(weights(trainer.model)) is None:
        good = checkpoints / f"last-good-{step}"
        trainer.save_model(str(good))
        (good / "training_args.bin").unlink(missing_ok=True)
        runs.seal(good)
    else:
        good = newest(checkpoints)
    return type(error)(f"{error} The last good state is {good}." if good else f"{error} Nothing was saved before.")


def _metrics(trainer, recorder: Recorder, before: dict, seconds: float, scores: dict, left: Path | None) -> dict:
    steps = trainer.state.global_step
    done = steps - (int(left.name.split("-")[1]) if left else 0)
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
    return metrics | {f"train_{k}": v for k, v in last.items() if k != "seconds"} | held
