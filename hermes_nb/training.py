"""What SFT and DPO share: trainer arguments, fp32 adapters, progress, history, sealed checkpoints, watch for NaN."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from hermes_nb import history, models, runs
from hermes_nb.errors import DataProblem, ResourceProblem, TrainingProblem
from hermes_nb.recipes import Stage
from hermes_nb.runtime import Machine, machine, peak_gb

ADAPTERS = torch.float32  # what adapters are trained in
SKIPS_IN_A_ROW = 16  # from 65536 the scale may halve that often before it reaches 1

# called with the tidy rows so far, the step and the number of steps
Watch = Callable[[list[dict], int, int], None]


def total_steps(stage: Stage, rows: int, processes: int = 1) -> int:
    """Optimizer steps of a stage: `max_steps` where it is set, else `epochs` over the rows (last batch kept)."""
    if stage.max_steps > 0:
        return stage.max_steps
    batches = math.ceil(rows / (stage.rows_per_device * processes))
    return math.ceil(stage.epochs * math.ceil(batches / stage.accumulation(processes)))


def arguments(stage: Stage, here: Machine, rows: int, out: Path, seed: int) -> dict:
    """Arguments that SFTConfig and DPOConfig share, each default that bites spelled out."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ResourceProblem("several processes (WORLD_SIZE > 1) are not served yet; start one, on one GPU.")
    every = max(1, round(total_steps(stage, rows) / max(1, stage.checkpoints)))
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": stage.rows_per_device,
        "per_device_eval_batch_size": stage.rows_per_device * 2,
        "gradient_accumulation_steps": stage.accumulation(),
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.schedule,
        "warmup_steps": stage.warmup,  # below 1: a share of the steps
        "optim": stage.optimizer,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": stage.max_grad_norm,
        "num_train_epochs": stage.epochs,
        "max_steps": stage.max_steps,
        "max_length": stage.max_length,
        "gradient_checkpointing": stage.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        # TRL's own default is bf16 everywhere; a T4 only emulates that
        "bf16": here.dtype == "bfloat16",
        "fp16": here.dtype == "float16",
        "use_cpu": here.device == "cpu",
        "dataloader_pin_memory": here.device == "cuda",
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # its default shows a NaN loss as 0
        "save_strategy": "steps" if stage.checkpoints else "no",
        "save_steps": every,
        "save_total_limit": 1,
        "eval_strategy": "no",  # `fit` scores the held-out rows once, at the end
        "report_to": "none",
        "disable_tqdm": True,
    }


class Recorder(TrainerCallback):
    """Writes history.jsonl, shows progress, seals checkpoints, and stops a run whose numbers are not finite."""

    def __init__(self, work: Path, name: str, watch: Watch | None = None):
        self.rows, self.watch = [], watch
        self.file = open(work / "history.jsonl", "w", encoding="utf-8")  # noqa: SIM115 closed in `close`
        self.name, self.bar, self.begun = name, None, time.perf_counter()
        self.scaled, self.skipped = machine().dtype == "float16", 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()
        if self.watch is None:
            self.bar = tqdm(total=state.max_steps, desc=self.name, unit="step", file=sys.stderr, dynamic_ncols=True)

    def on_log(self, args, state, control, logs=None, **kwargs):
        new = history.entries(logs, state.global_step)
        if not new:
            return
        if "loss" in logs:
            seconds = time.perf_counter() - self.begun
            new.append({"step": state.global_step, "split": "train", "metric": "seconds", "value": round(seconds, 2)})
        self.rows += new
        self.file.writelines(json.dumps(row) + "\n" for row in new)
        self.file.flush()
        self._check(logs, state.global_step)
        self._show(logs, state)

    def _check(self, logs: dict, step: int) -> None:
        bad = [k for k in ("loss", "grad_norm") if not math.isfinite(logs.get(k, 0.0))]
        # under fp16 the gradient scaler begins too high by design: it skips such a step and halves its scale
        self.skipped = self.skipped + 1 if bad == ["grad_norm"] else 0
        if bad and not (self.scaled and bad == ["grad_norm"] and self.skipped <= SKIPS_IN_A_ROW):
            raise TrainingProblem(
                f"{self.name}, step {step}: {bad[0]} is {logs[bad[0]]}; the run was stopped before it was saved. "
                f"Lower the learning rate, or audit the rows."
            )

    def _show(self, logs: dict, state) -> None:
        if self.watch is not None:
            self.watch(self.rows, state.global_step, state.max_steps)
        elif self.bar is not None and "loss" in logs:
            shown = {"loss": f"{logs['loss']:.3f}"}
            if "rewards/margins" in logs:
                shown["margin"] = f"{logs['rewards/margins']:+.3f}"
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_save(self, args, state, control, **kwargs):
        runs.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self):
        """Close the file and the bar."""
        self.file.close()
        if self.bar is not None:
            self.bar.close()


def replay(run: runs.Run, watch: Watch | None) -> runs.Run:
    """Show the history of a finished stage to `watch`, once, so that Run All draws its curve again; returns the run."""
    if watch is not None:
        rows = history.load(run.path).drop(columns="run").to_dict("records")
        watch(rows, run.metrics["steps"], run.metrics["steps"])
    return run


@dataclass
class Fitted:
    """Outcome of `fit`: the trainer, and what goes into `run.json`."""

    trainer: object
    metrics: dict


def nothing_lost(trainer, rows: int, max_length: int, columns: tuple[str, ...]) -> None:
    """Refuse to train when TRL dropped or would cut a row; `audit` does both by name.

    Raises DataProblem with the number of rows concerned.
    """
    prepared = trainer.train_dataset
    if len(prepared) != rows:
        raise DataProblem(
            f"{rows - len(prepared)} of {rows} rows have a prompt that fills max_length={max_length}; "
            f"drop them by name with hermes_nb.audit first."
        )
    prompt, *sides = columns if len(columns) > 1 else (None, *columns)
    longest = [max(map(len, parts)) for parts in zip(*(prepared[c] for c in sides), strict=True)]
    lengths = [n + len(p) for n, p in zip(longest, prepared[prompt], strict=True)] if prompt else longest
    long = sum(n > max_length for n in lengths)
    if long:
        raise DataProblem(
            f"{long} of {rows} rows are longer than max_length={max_length} tokens and would lose their stop token; "
            f"drop them by name with hermes_nb.audit first."
        )


def fit(build, model, recorder: Recorder, score: bool) -> Fitted:
    """Build a trainer around `model` with its adapters kept in fp32, train, and `score` the held-out rows.

    `build()` returns the trainer; it may change the adapters' precision, which is undone. Returns the share of adapter
    entries that moved among the metrics.
    """
    with models.keep_fp32(model):
        trainer = build()
    rounded = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype != ADAPTERS]
    if rounded:
        raise TrainingProblem(
            f"{len(rounded)} adapter tensors are not fp32 ({rounded[0]}): updates of a small learning rate would round "
            f"to nothing. Build the trainer inside models.keep_fp32."
        )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(recorder)
    before = models.snapshot(model)
    begun = time.perf_counter()
    try:
        trainer.train()
        seconds = time.perf_counter() - begun
        scores = trainer.evaluate() if score else {}
    finally:
        recorder.close()
    steps = trainer.state.global_step
    metrics = {
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "seconds_per_step": round(seconds / max(1, steps), 3),
        "moved": round(models.moved(before, models.snapshot(model)), 6),
        "trainable_parameters": sum(t.numel() for t in before.values()),
        "peak_gb": round(peak_gb(), 2),
    }
    held = {f"held_out_{r['metric']}": r["value"] for r in history.entries(scores, steps) if r["split"] == "held_out"}
    last = {r["metric"]: r["value"] for r in recorder.rows if r["split"] == "train"}
    return Fitted(trainer, metrics | {f"train_{k}": v for k, v in last.items() if k != "seconds"} | held)


def split(rows) -> tuple:
    """Rows as `(train, held_out)`: a mapping with these keys, or a Dataset alone (held_out is None)."""
    if isinstance(rows, dict):
        return rows["train"], rows.get("held_out")
    return rows, None


def start_of(start) -> tuple[Path | None, str | None]:
    """Adapter folder of a start (a run, a folder, or None) and the digest of its weights, recorded as the parent."""
    adapter = start.adapter if isinstance(start, runs.Run) else Path(start) if start else None
    return adapter, runs.file_digest(adapter / "adapter_model.safetensors") if adapter else None


def digest(rows) -> str:
    """Digest of the text of rows, the same on every machine."""
    if rows is None:
        return ""
    columns = [c for c in ("messages", "prompt", "chosen", "rejected") if c in rows.column_names]
    return runs.fingerprint([[row[c] for c in columns] for row in rows])
