"""What SFT and DPO share before they train: arguments, rows, the start, and a check that no row is lost."""

import math
import os
from pathlib import Path

from hermes_nb import runs
from hermes_nb.errors import DataProblem, ResourceProblem
from hermes_nb.recipes import Stage
from hermes_nb.runtime import Machine


def total_steps(stage: Stage, rows: int) -> int:
    """Optimizer steps of a stage: `max_steps` where it is set, else `epochs` over the rows (last batch kept)."""
    if stage.max_steps > 0:
        return stage.max_steps
    return math.ceil(stage.epochs * math.ceil(rows / stage.rows_per_step))


def arguments(stage: Stage, here: Machine, rows: int, out: Path, seed: int) -> dict:
    """Arguments that SFTConfig and DPOConfig share, each default that bites spelled out.

    A batch of the loader is a whole step; `parts` cuts it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ResourceProblem("several processes (WORLD_SIZE > 1) are not served yet; start one, on one GPU.")
    every = max(1, round(total_steps(stage, rows) / max(1, stage.checkpoints)))
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": stage.rows_per_step,
        "per_device_eval_batch_size": stage.rows_per_device * 2,
        "gradient_accumulation_steps": 1,
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
        "save_total_limit": 2,  # a kill may cut the newest
        "eval_strategy": "no",  # `fit` scores the held-out rows once, at the end
        "disable_tqdm": True,
    }


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
