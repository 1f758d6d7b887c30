"""The sides of `bench dpo`: TRL as it stands, TRL at its best settings, and this package, on one base and one batch."""

import contextlib
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from trl import DPOConfig, DPOTrainer

from hermes_nb import dpo, models, packing, recipes, roofline, runtime, training
from hermes_nb.bench.memory import Peak
from hermes_nb.dpo.trainer import REFERENCES


@dataclass(frozen=True)
class Side:
    """How a step is computed: `packed` by this package, with a `cached` reference, in micro-batches of `rows`."""

    name: str
    packed: bool
    cached: bool
    checkpointing: bool
    rows: int  # pairs in a micro-batch; 0: all of the step


def sides(checkpointing: bool) -> tuple[Side, ...]:
    """The sides in the order in which they are measured; `checkpointing` is ours and that of TRL's best settings."""
    return (
        Side("trl, defaults", False, False, True, 0),
        Side("trl, cached, whole", False, True, checkpointing, 0),
        Side("trl, cached, one by one", False, True, checkpointing, 1),
        Side("packed, on the fly", True, False, checkpointing, 0),
        Side("packed, cached", True, True, checkpointing, 0),
    )


# a preference row in words, which only the trainers' constructors read
WORDS = {
    "prompt": [[{"role": "user", "content": "one"}]], "chosen": [[{"role": "assistant", "content": "two"}]],
    "rejected": [[{"role": "assistant", "content": "three"}]],
}  # fmt: skip


def trainer_of(side: Side, model, tokenizer, rows: list[dict], step: int, tokens: int, work: Path):
    """A trainer on `model` (a PeftModel) whose rows are the tokenized `rows`; `tokens` bounds a part (0: planned)."""
    here = runtime.machine()
    config = DPOConfig(
        output_dir=str(work), per_device_train_batch_size=step, max_length=sys.maxsize, report_to="none",
        save_strategy="no",
        bf16=here.dtype == "bfloat16", fp16=here.dtype == "float16", use_cpu=here.device == "cpu", disable_tqdm=True,
        gradient_checkpointing=side.checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_pin_memory=here.device == "cuda",
    )  # fmt: skip
    kind = dpo.PairTrainer if side.packed else DPOTrainer
    with models.keep_fp32(model) if side.packed else contextlib.nullcontext():
        words = datasets.Dataset.from_dict(WORDS)
        trainer = kind(model=model, args=config, processing_class=tokenizer, train_dataset=words)
    model.delete_adapter("ref")  # the base with the adapter off is the reference on every side
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.current_gradient_accumulation_steps = 1
    trainer.accelerator.prepare_model(model)  # autocast, as `train` would lay it around
    if side.packed:
        stage = replace(
            recipes.load("course", "tiny").dpo, rows_per_step=step, tokens_at_once=tokens, reference="on_the_fly",
            gradient_checkpointing=side.checkpointing,
        )  # fmt: skip
        with training.sparing(trainer):
            dpo.PairEngine(stage, work).start(trainer)
    if side.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return trainer


def measured(side: Side, trainer, rows: list[dict]) -> dict:
    """One step of `side` on `rows`: seconds, of the reference pass too where it is cached, and peak memory (GB)."""
    out = {"reference": 0.0}
    if side.cached:
        begun = time.perf_counter()
        with training.sparing(trainer) if side.packed else contextlib.nullcontext():
            rows = [row | values for row, values in zip(rows, _reference(trainer, side, rows), strict=True)]
        out["reference"] = time.perf_counter() - begun
        trainer.precompute_ref_logps = True
    micro = side.rows or len(rows)
    batches = [trainer.data_collator(rows[i : i + micro]) for i in range(0, len(rows), micro)]
    trainer.current_gradient_accumulation_steps = len(batches)
    trainer.state.global_step = 1  # past the proofs, which are part of the first step alone
    runtime.give_back()
    with Peak() as peak, training.sparing(trainer) if side.packed else contextlib.nullcontext():
        begun = time.perf_counter()
        for batch in batches:
            trainer.training_step(trainer.model, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        out["step"] = time.perf_counter() - begun
    out["gb"] = peak.gb
    trainer.model.zero_grad()
    trainer.precompute_ref_logps = False
    return out


def _reference(trainer, side: Side, rows: list[dict]) -> list[dict]:
    """Reference log-probabilities of `rows`, as the side's columns."""
    out, micro = [], side.rows or len(rows)
    for i in range(0, len(rows), micro):
        batch = trainer._prepare_inputs(trainer.data_collator(rows[i : i + micro]))
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
        pairs = zip(chosen.tolist(), rejected.tolist(), strict=True)
        out += [dict(zip(REFERENCES, pair, strict=True)) for pair in pairs]
    return out


def scores(trainer, rows: list[dict]) -> torch.Tensor:
    """Log-probability (nats) of every answer token, in the padded layout; the adapter is still 0."""
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    how = {"labels": labels, "fused_lm_head": True, "use_cache": False}
    with torch.no_grad(), trainer.accelerator.autocast():
        out = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **how).log_probs
    return out.float().cpu()


def taken_apart(trainer, model):
    """The base of `model` without its adapter and as it was before any trainer saw it."""
    base = model.get_base_model()
    packing.uninstall(base)
    if trainer.args.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    base.__dict__.pop("forward", None)  # TRL's head
    return model.unload()


def flops(side: Side, shape: roofline.Shape, pairs: list[tuple[int, int, int]], rank: int) -> float:
    """What no exact method can leave out of this side's step."""
    return roofline.dpo_flops(
        shape, pairs, rank=rank, checkpointing=side.checkpointing, reference="cached" if side.cached else "on_the_fly"
    )
