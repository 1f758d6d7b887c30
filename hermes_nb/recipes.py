"""A run as data: one YAML per published system, three scales, strict keys.

A recipe is read from `published/NAME.yaml` (or a path), the block of its scale is laid over it, then the overrides,
and the result becomes frozen dataclasses. Scales change sizes, never the path through the code. Lesson: 00_tour.
"""

import dataclasses
import difflib
from pathlib import Path

import pydantic
import yaml
from pydantic.dataclasses import dataclass

from hermes_nb.runtime import SCALES, RecipeProblem, machine

PUBLISHED = Path(__file__).parent / "published"
STRICT = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Source:
    """Rows of one source: a file of that schema, or the hub's data set when `path` is empty."""

    source: str
    path: str | None = None
    split: str = "train"
    limit: int | None = None


@dataclass(frozen=True, config=STRICT)
class Model:
    """The base model and its chat template; `revision` pins a hub model to a commit."""

    base: str = "builtin"
    revision: str | None = None
    template: str = "chatml"


@dataclass(frozen=True, config=STRICT)
class Lora:
    """Adapter shape; targets are all linear layers but the head unless named."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"


@dataclass(frozen=True, config=STRICT)
class Stage:
    """What SFT and DPO share. `rows_per_step` is the global batch and stays when its parts change."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...] = ()
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.1  # share of the steps
    optimizer: str = "adamw_torch"
    weight_decay: float = 0.0
    rows_per_step: int = 16
    rows_per_device: int = 4
    epochs: float = 1.0
    max_steps: int = -1
    max_length: int = 1024
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = True
    checkpoints: int = 2  # states saved during training, the last one at its end
    score_held_out: bool = True  # let the trainer score the held-out rows at its end

    def accumulation(self, processes: int = 1) -> int:
        """Micro-batches a step: rows_per_step = rows_per_device x accumulation x processes.

        Raises RecipeProblem when the global batch cannot be kept with these parts.
        """
        at_once = self.rows_per_device * processes
        if self.rows_per_step % at_once:
            raise RecipeProblem(
                f"rows_per_step {self.rows_per_step} is not a multiple of rows_per_device {self.rows_per_device} x "
                f"{processes} process(es); choose a divisor, so that the global batch stays what the recipe says."
            )
        return self.rows_per_step // at_once

    def batch_line(self, processes: int = 1) -> str:
        """The global batch and its parts in words."""
        return (
            f"{self.rows_per_step} rows a step = {self.rows_per_device} per device x "
            f"{self.accumulation(processes)} accumulated x {processes} process(es)"
        )


@dataclass(frozen=True, config=STRICT)
class Sft(Stage):
    """Supervised fine-tuning; `neftune` is the noise of https://arxiv.org/abs/2310.05914 (0: none)."""

    neftune: float = 0.0


@dataclass(frozen=True, config=STRICT)
class Dpo(Stage):
    """Direct preference optimization, https://arxiv.org/abs/2305.18290; `beta` of its Eq. 7."""

    beta: float = 0.1
    loss: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Merge:
    """What the adapter is merged onto, and in which number format it is saved."""

    onto: str = "auto"
    dtype: str = "auto"
    max_shard_size: str = "2GB"


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """How many questions are answered, and how."""

    questions: int = 60
    samples: int = 2  # answers to each question at temperature 1
    greedy_questions: int = 24
    max_new_tokens: int = 96
    temperature: float = 1.0
    batch_size: int = 60
    plain_questions: int = 0  # questions without a system prompt whose answers must end by themselves


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One run, wholly described; `scale` and `variant` say which of its forms this is."""

    name: str
    title: str
    scale: str
    variant: str
    model: Model
    lora: Lora = Lora()
    sft: Sft | None = None
    dpo: Dpo | None = None
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    seed: int = 0
    needs_gb: float = 4.0
    overrides: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain data, as it is written to `recipe.yaml`."""
        return dataclasses.asdict(self, dict_factory=lambda pairs: {k: _plain(v) for k, v in pairs})


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(p.stem for p in PUBLISHED.glob("*.yaml"))


def _nearest(word: str, words) -> str:
    close = difflib.get_close_matches(word, list(words), 1, 0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(words))}."


def _read(name: str) -> tuple[dict, str]:
    """The YAML of a shipped recipe or of a path, and the words that name it in errors."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PUBLISHED / f"{name}.yaml"
    if not path.is_file():
        raise RecipeProblem(f"no recipe {name!r}{_nearest(name, names())}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeProblem(
            f"{path.name}: not readable as YAML ({str(error).splitlines()[0]}); mend that line."
        ) from error
    if not isinstance(data, dict):
        raise RecipeProblem(f"{path.name}: a recipe is a mapping of keys; this file is not.")
    return data, path.name


def _lay_over(data: dict, patch: dict) -> dict:
    """A copy of `data` with `patch` laid over it, mapping by mapping."""
    out = dict(data)
    for key, value in patch.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _lay_over(out[key], value) if both else value
    return out


def _override(data: dict, text: str) -> dict:
    """Lay one `KEY=VALUE` (dots between the levels, value read as YAML) over the recipe."""
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeProblem(f"override {text!r} is not KEY=VALUE, such as dpo.learning_rate=1e-5.")
    patch = yaml.safe_load(value)
    for part in reversed(key.strip().split(".")):
        patch = {part: patch}
    return _lay_over(data, patch)


def _build(data: dict, where: str) -> Recipe:
    """Build the recipe from a mapping; RecipeProblem names an unknown, missing or mistyped key."""
    try:
        return pydantic.TypeAdapter(Recipe).validate_python(data)
    except pydantic.ValidationError as error:
        raise RecipeProblem(f"{where}: {_explain(error.errors()[0])}") from error


def _explain(problem: dict) -> str:
    """One pydantic error in words, with the nearest key where one is unknown."""
    *path, last = [str(part) for part in problem["loc"]]
    dotted = ".".join([*path, last])
    if problem["type"] == "unexpected_keyword_argument":
        owner = Recipe
        for part in path:
            owner = _field_class(owner, part)
        return f"unknown key {dotted!r}{_nearest(last, owner.__dataclass_fields__)}"
    if problem["type"] == "missing":
        return f"key {dotted!r} is missing."
    return f"{dotted}: {problem['msg'].lower()}, found {problem['input']!r}."


def _field_class(owner, name: str):
    """The recipe class that field `name` of `owner` holds (list indices keep the owner)."""
    if not hasattr(owner, "__dataclass_fields__") or name not in owner.__dataclass_fields__:
        return owner
    hint = str(owner.__dataclass_fields__[name].type)
    return next((c for c in (Source, Model, Lora, Sft, Dpo, Merge, Evaluate) if c.__name__ in hint), owner)


def _check(recipe: Recipe) -> Recipe:
    """Refuse combinations known to fail, before anything is loaded."""
    for stage in (recipe.sft, recipe.dpo):
        if stage is not None:
            stage.accumulation()
    if recipe.dpo is None and recipe.sft is None:
        raise RecipeProblem(f"{recipe.name}: neither an sft nor a dpo stage; there is nothing to train.")
    if "lm_head" in recipe.lora.targets:
        raise RecipeProblem(
            "lora.targets: no adapter on the head; TRL scores tokens with the head's own weight, "
            "so an adapter there would never train. Leave lm_head out."
        )
    if recipe.dpo and recipe.dpo.loss_weights and len(recipe.dpo.loss_weights) != len(recipe.dpo.loss):
        raise RecipeProblem("dpo.loss_weights: give one weight for each loss in dpo.loss, or none.")
    return recipe


def load(name: str, scale: str = "auto", variant: str = "repaired", overrides=None) -> Recipe:
    """Load a recipe by name or path at a scale.

    `overrides` are `KEY=VALUE` texts with dotted keys, or a nested mapping; they come last and are recorded.
    Raises RecipeProblem for an unknown name, scale, variant or key (naming the nearest right one), a wrong type, or a
    combination known to fail, such as `dpo.neftune` (noise would reach the reference) or an adapter on the head.
    """
    data, where = _read(name)
    scale = machine().scale if scale == "auto" else scale
    if scale not in SCALES:
        raise RecipeProblem(f"no scale {scale!r}; use one of {', '.join(SCALES)} or auto.")
    scales, variants = data.pop("scales", {}), data.pop("variants", {})
    if variant != "repaired" and variant not in variants:
        raise RecipeProblem(f"{where} has no variant {variant!r}; it has: {', '.join(['repaired', *variants])}.")
    data = _lay_over(_lay_over(data, variants.get(variant, {})), scales.get(scale) or {})
    if isinstance(overrides, dict):
        data, overrides = _lay_over(data, overrides), [f"{k}={v}" for k, v in overrides.items()]
    else:
        for text in overrides or ():
            data = _override(data, text)
    if isinstance(data.get("dpo"), dict) and "neftune" in data["dpo"]:
        raise RecipeProblem(
            "dpo.neftune: NEFTune is refused in DPO; the noise would be drawn anew for the reference, "
            "and the margin would not start at 0. Use it in sft."
        )
    data |= {"scale": scale, "variant": variant, "overrides": list(overrides or ())}
    return _check(_build(data, where))


def read(path: Path) -> Recipe:
    """Read the `recipe.yaml` of a run directory. Raises RecipeProblem when it is missing or not a recipe."""
    if not path.is_file():
        raise RecipeProblem(f"{path}: no recipe here; give a run directory that `run` has made.")
    return _build(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
