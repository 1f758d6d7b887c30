"""What a recipe will cost on a GPU, stage by stage: rows, tokens, FLOPs, memory, time. Lessons: 02_qlora_sft, 03_dpo.

Loading, scoring of held-out rows, merge and evaluation are not in it.
"""

import math
from dataclasses import dataclass

from hermes_nb import roofline
from hermes_nb.errors import RecipeProblem
from hermes_nb.estimate import bases, reaching, rows
from hermes_nb.estimate.memory import GB
from hermes_nb.recipes import Recipe, Stage
from hermes_nb.roofline import ALL_LINEAR, Gpu, Shape, Work

RESERVE_GB = 1.5  # CUDA's own, libraries' workspaces: an allowance
FREE = 0.8  # share of the memory left that a part of a step is planned with, as training does
MAKES = {"sft": "conversations", "dpo": "pairs"}

Lengths = tuple[int, ...]  # tokens of a prompt and its answers, or of a conversation's rest and its answers


@dataclass(frozen=True)
class Job:
    """One stage of a recipe, `sft` or `dpo`, on one GPU."""

    recipe: Recipe
    name: str
    shape: Shape
    chip: Gpu
    speed: reaching.Speed

    @property
    def part(self) -> Stage:
        """The stage's own settings."""
        return self.recipe.sft if self.name == "sft" else self.recipe.dpo

    @property
    def layout(self) -> str:
        """How rows are laid: `packed` or `padded`."""
        return "packed" if self.part.packed else "padded"

    @property
    def adapter(self) -> int:
        """Parameters of the adapter."""
        return roofline.adapter_parameters(self.shape, self.recipe.lora.r, self.targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """The layers that carry the adapter."""
        named = self.recipe.lora.targets
        return ALL_LINEAR if isinstance(named, str) else named

    @property
    def how(self) -> dict:
        """What `roofline.activation_bytes` must know of the stage."""
        checkpointing = self.part.gradient_checkpointing
        return {"rank": self.recipe.lora.r, "targets": self.targets, "checkpointing": checkpointing}

    def held_gb(self) -> dict[str, float]:
        """GB before the first token. DPO after SFT holds the SFT adapter once more, frozen, as the reference."""
        reference = 4 * self.adapter if self.name == "dpo" and self.recipe.sft else 0
        adapter = roofline.adapter_bytes(self.shape, self.recipe.lora.r, self.targets) + reference
        return {"weights": roofline.weight_bytes(self.shape) / GB, "adapter": adapter / GB, "reserve": RESERVE_GB}

    def cached(self, seen: int, kept: int) -> bool:
        """Whether the reference is computed once for all rows; `auto`: where pairs are seen more than once."""
        if self.name == "sft" or self.part.reference != "auto":
            return self.name == "dpo" and self.part.reference == "cached"
        return seen > kept


def scale_for(chip: Gpu) -> str:
    """The scale whose sizes suit a GPU of that memory."""
    return "a100" if chip.memory_gb >= 30 else "t4"


def recipe(one: Recipe, chip: Gpu) -> dict:
    """The estimate as plain data: `stages` (a dict each, see `stage`), their `seconds` together, whether all `fits`.

    Raises RecipeProblem for a base or a set whose sizes are not known here.
    """
    shape, reached = bases.base_shape(one.model.base), reaching.speed(chip)
    names = [name for name, part in (("sft", one.sft), ("dpo", one.dpo)) if part]
    stages = [stage(Job(one, name, shape, chip, reached)) for name in names]
    return {
        "recipe": one.name, "scale": one.scale, "variant": one.variant, "model": shape.name, "rank": one.lora.r,
        "gpu": chip.name, "tflops": chip.tflops, "memory_gb": chip.memory_gb,
        "share_of_roofline": reached.share, "share_measured": reached.measured, "share_origin": reached.origin,
        "stages": stages, "seconds": sum(s["seconds"] for s in stages), "fits": all(s["fits"] for s in stages),
    }  # fmt: skip


def stage(job: Job) -> dict:
    """One stage: `rows` kept, `seen` in training, `tokens` real and padded, `flops`, `memory_gb`, `seconds`."""
    part = job.part
    found = rows.of(part.train, MAKES[job.name], job.recipe.seed)
    sample = whole(found.lengths, part)
    kept = round(found.count * len(sample) / len(found.lengths))
    seen = part.max_steps * part.rows_per_step if part.max_steps > 0 else round(part.epochs * kept)
    laid = {layout: work(job.name, sample, part.rows_per_device, layout) for layout in ("packed", "padded")}
    own, cached = laid[job.layout], job.cached(seen, kept)
    at_once, memory = memory_gb(job, sample, own)
    live = job.name == "dpo" and not cached
    flops = seen * roofline.training(
        job.shape, own, job.adapter, checkpointing=part.gradient_checkpointing, reference=live
    )
    flops += kept * roofline.forward(job.shape, own) if cached else 0
    passes = ((2 + part.gradient_checkpointing + live) * seen + cached * kept) / at_once
    seconds = job.speed.seconds(flops, job.chip, job.shape, passes)
    return {
        "stage": job.name, "rows": kept, "seen": seen, "layout": job.layout, "rows_at_once": at_once,
        "reference": "cached" if cached else "on_the_fly" if live else None,
        "tokens": round(seen * laid["packed"].tokens), "tokens_padded": round(seen * laid["padded"].tokens),
        "flops": flops, "memory_gb": memory, "fits": sum(memory.values()) <= job.chip.memory_gb,
        "seconds": seconds, "hours": seconds / 3600, "notes": found.notes,
    }  # fmt: skip


def whole(lengths: list[Lengths], part: Stage) -> list[Lengths]:
    """The rows of a sample that training keeps: those within `max_length`, or all of them, cut, where a recipe says so.

    Raises RecipeProblem where none is left.
    """
    if part.too_long == "cut":
        return [cut(n, part.max_length) for n in lengths]
    kept = [n for n in lengths if longest(n) <= part.max_length]
    if not kept:
        raise RecipeProblem(f"max_length {part.max_length}: every row of the sample is longer; raise it.")
    return kept


def longest(lengths: Lengths) -> int:
    """Tokens of a row: the prompt with the longer of its answers."""
    return lengths[0] + max(lengths[1:])


def cut(lengths: Lengths, limit: int) -> Lengths:
    """Lengths of a row whose sides are cut at `limit` tokens, prompt first."""
    prompt = min(lengths[0], limit)
    return prompt, *(min(n, limit - prompt) for n in lengths[1:])


def work(name: str, sample: list[Lengths], at_once: int, layout: str, head: str = "answers") -> Work:
    """Mean work of a row of the sample; padded rows in micro-batches of `at_once`."""
    total = Work(0, 0, 0)
    for k in range(0, len(sample), at_once):
        group = sample[k : k + at_once]
        if name == "sft":
            total += roofline.conversations(group, layout)
        else:
            total += roofline.packed(group) if layout == "packed" else roofline.padded(group, head)
    return Work(*(n / len(sample) for n in (total.tokens, total.sees, total.scored)))


def memory_gb(job: Job, sample: list[Lengths], mean: Work) -> tuple[float, dict[str, float]]:
    """Rows computed at once, and GB: weights, adapter with its optimizer, reserve, activations.

    Padded: `rows_per_device` of the sample's longest rows. Packed: a whole step of `mean` rows, in as few parts as
    memory allows (or of `tokens_at_once`), but never less than the largest row.
    """
    part, held = job.part, job.held_gb()
    answers = mean.scored / mean.tokens
    if job.layout == "padded":
        row = max(sample, key=longest)
        at_once, tokens = part.rows_per_device, part.rows_per_device * longest(row) * (len(row) - 1)
    else:
        free = FREE * (job.chip.memory_gb - sum(held.values())) * GB
        most = part.tokens_at_once or roofline.tokens_that_fit(job.shape, free, answers=answers, **job.how)
        parts = math.ceil(part.rows_per_step * mean.tokens / max(most, mean.tokens))
        at_once = part.rows_per_step / parts
        tokens = max(max(map(sum, sample)), round(at_once * mean.tokens))
    step = roofline.step_bytes(job.shape, tokens, scored=round(answers * tokens), **job.how)
    return at_once, held | {"activations": step / GB}
