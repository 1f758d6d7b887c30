"""The engine around a trainer: packed rows where the model allows them, and a budget planned before the first step."""

import sys
import time
from pathlib import Path

import torch

from hermes_nb import packing, roofline, runs, runtime
from hermes_nb.recipes import Stage
from hermes_nb.training.budget import Budget, plan
from hermes_nb.training.parts import StepInParts

FILE = "engine.json"  # in the work folder, so that an interrupted run goes on with the same parts
RESERVE = 0.8  # share of the free memory that is planned with


class Engine:
    """Sets a trainer up, and tells what it chose; `told` goes into `run.json`."""

    def __init__(self, stage: Stage, work: Path):
        self.stage, self.file, self.told = stage, Path(work) / FILE, {}

    def start(self, trainer: StepInParts) -> None:
        """Lay rows, and plan the budget or take the recorded one."""
        kept = runs.read_json(self.file) if self.file.is_file() else {}
        kind, why = self._lay(trainer, kept.get("attention", self.stage.attention))
        trainer.rows_at_once = 0 if kind else self.stage.rows_per_device
        self.told = {"packed": kind is not None, "attention": kind or "padded", "why": why}
        trainer.keep_budget = self.keep
        if "budget" in kept:
            trainer.budget = Budget(**kept["budget"])
        elif self.stage.tokens_at_once:
            trainer.budget = Budget(self.stage.tokens_at_once, "the recipe says so")
        else:
            trainer.budget = self._plan(trainer)
        self.keep(trainer.budget)

    def keep(self, budget: Budget) -> None:
        """Record the budget, at once."""
        self.told["budget"] = budget.to_dict()
        runs.write_json(self.file, self.told)

    def _lay(self, trainer: StepInParts, attention: str) -> tuple[str | None, str]:
        if not self.stage.packed or attention == "padded":
            return None, "the recipe says so"
        longest = max(side for _, side in trainer.lengths())
        with trainer.accelerator.autocast():  # in the arithmetic of the training
            kind, why = packing.serve(trainer.model, longest, attention, trainer.pairs, trainer.outputs())
        if kind is None:
            print(f"note: rows are not packed, because {why}; TRL's padded path is used.")
        return kind, why

    def _plan(self, trainer: StepInParts) -> Budget:
        sizes = sorted(size for size, _ in trainer.lengths())
        step = sum(sizes[-self.stage.rows_per_step :])
        if trainer.whole_step():
            return Budget(step, trainer.whole_step())
        here, fits = runtime.machine(), self._fits(trainer.model.config)
        key = runs.fingerprint(
            trainer.model.config.to_diff_dict().get("architectures"), trainer.model.num_parameters(), here.chip,
            here.cores, here.dtype, self.told["attention"], self.stage.gradient_checkpointing, trainer.pairs,
        )  # fmt: skip
        return plan(sizes[-1], step, fits, key, lambda tokens: timed(trainer, tokens))

    def _fits(self, config) -> int:
        """Tokens that free memory has room for, estimated."""
        if torch.cuda.is_available():
            free, _ = torch.cuda.mem_get_info()
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        else:
            import psutil

            free = psutil.virtual_memory().available
        try:
            shape = roofline.shape_of(config.get_text_config())
        except AttributeError:  # not Llama-like: let memory running out decide
            return sys.maxsize
        return roofline.tokens_that_fit(shape, RESERVE * free, checkpointing=self.stage.gradient_checkpointing)


def timed(trainer: StepInParts, tokens: int) -> float:
    """Seconds that a part of about `tokens` tokens takes forward and backward, scaled to `tokens`.

    The trainer's own rows, from the first on, computed twice; nothing of it is kept.
    """
    picked, held, sizes = [], 0, [size for size, _ in trainer.lengths()]
    while not picked or held < tokens:
        k = len(picked) % len(sizes)
        picked.append(trainer.train_dataset[k])
        held += sizes[k]
    logged, counted = {k: list(v) for k, v in trainer._metrics["train"].items()}, trainer._total_train_tokens
    was = trainer.model.training
    trainer.model.train()
    with torch.random.fork_rng():
        batch = trainer._prepare_inputs(trainer.data_collator(picked))
        seconds = [_pass(trainer, batch) for _ in range(2)]
    trainer.model.zero_grad()
    trainer.model.train(was)
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update(logged)
    trainer._total_train_tokens = counted
    return min(seconds) * tokens / held


def _pass(trainer: StepInParts, batch: dict) -> float:
    begun = time.perf_counter()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=trainer.items(batch, None))
    loss.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
