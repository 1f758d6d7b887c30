"""The engine around a trainer: packed rows where the model allows them, and a budget planned before the first step."""

import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from hermes_nb import packing, roofline, runs, runtime
from hermes_nb.recipes import Stage
from hermes_nb.training.budget import Budget, plan, recalled
from hermes_nb.training.parts import StepInParts, is_out_of_memory
from hermes_nb.training.watching import say

FILE = "engine.json"  # in the work folder, so that an interrupted run goes on with the same parts
RESERVE = 0.8  # share of the free memory that is planned with
SAMPLE = 2048  # tokens of the part that two ways of attention are measured on


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
            if kind == "gather" and attention == "auto" and "flex" in packing.kinds(trainer.model.get_base_model()):
                kind, why = self._faster(trainer, longest)
        if kind is None:
            say(f"note: rows are not packed, because {why}; TRL's padded path is used.")
        return kind, why

    def _faster(self, trainer: StepInParts, longest: int) -> tuple[str, str]:
        """Of `gather` and `flex`, which both may serve on a GPU, the one that a step is faster with; asked once."""

        def measure() -> dict[str, float]:
            rates = {}
            for kind in ("gather", "flex"):
                served, why = packing.serve(trainer.model, longest, kind, trainer.pairs, trainer.outputs())
                rates[kind] = tokens_a_second(trainer) if served else 0.0
            return rates

        rates = recalled(f"attention {self._key(trainer)}", measure)
        best = max(rates, key=rates.get)
        served, why = packing.serve(trainer.model, longest, best, trainer.pairs, trainer.outputs())
        told = ", ".join(f"{kind} {rate:.0f}" for kind, rate in rates.items())
        return served, f"{why}; the faster of those measured here, in tokens a second: {told}"

    def _plan(self, trainer: StepInParts) -> Budget:
        sizes = sorted(size for size, _ in trainer.lengths())
        step = sum(sizes[-self.stage.rows_per_step :])
        if trainer.whole_step():
            return Budget(step, trainer.whole_step())
        fits, key = self._fits(trainer.model.config), f"tokens {self.told['attention']} {self._key(trainer)}"
        return plan(sizes[-1], step, fits, key, lambda tokens: timed(trainer, tokens))

    def _key(self, trainer: StepInParts) -> str:
        """Digest of what decides the speed of a step: model, chip, arithmetic, how it is trained."""
        here, model = runtime.machine(), trainer.model
        return runs.fingerprint(
            model.config.architectures, model.num_parameters(), model.num_parameters(only_trainable=True), here.chip,
            here.cores, here.dtype, self.stage.gradient_checkpointing, trainer.pairs,
        )  # fmt: skip

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
        return roofline.tokens_that_fit(
            shape, RESERVE * free, checkpointing=self.stage.gradient_checkpointing,
            masked=self.told["attention"] == "dense",
        )  # fmt: skip


def tokens_a_second(trainer: StepInParts) -> float:
    """Speed of a part of middling size; 0 where it cannot be computed (a kernel that does not compile, say)."""
    try:
        return SAMPLE / timed(trainer, SAMPLE)
    except Exception as error:  # whatever a compiler raises is a reason to take the other way
        say(f"note: {type(error).__name__} while the speed of an attention was measured; the other one is used.")
        return 0.0


def timed(trainer: StepInParts, tokens: int) -> float:
    """Seconds that a part of about `tokens` tokens takes forward and backward, scaled to `tokens`.

    The trainer's own rows, from the first on, computed twice; nothing of it is kept. inf where memory runs out.
    """
    picked, held, sizes = [], 0, [size for size, _ in trainer.lengths()]
    while not picked or (held < tokens and (len(picked) < trainer.rows_at_once or not trainer.rows_at_once)):
        k = len(picked) % len(sizes)
        picked.append(trainer.train_dataset[k])
        held += sizes[k]
    seconds = math.inf
    with trainer.unlogged(), checkpointed(trainer), torch.random.fork_rng():
        trainer.model.train()
        try:
            batch = trainer.prepared(picked)
            seconds = min(_pass(trainer, batch) for _ in range(2))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return seconds * tokens / held


@contextmanager
def checkpointed(trainer: StepInParts):
    """Recompute activations as training will; transformers switches it on only when training begins."""
    if not trainer.args.gradient_checkpointing:
        yield
        return
    trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    try:
        yield
    finally:
        trainer.model.gradient_checkpointing_disable()


def _pass(trainer: StepInParts, batch: dict) -> float:
    begun = time.perf_counter()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=trainer.items(batch, None))
    loss.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
