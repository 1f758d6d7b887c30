"""From YAML to a recipe: the block of its scale laid over it, then the overrides, every key checked."""

import difflib
from pathlib import Path

import pydantic
import yaml

from hermes_nb.errors import RecipeProblem
from hermes_nb.recipes.shape import Dpo, Evaluate, Lora, Merge, Model, Recipe, Sft, Source
from hermes_nb.runtime import SCALES, machine

PUBLISHED = Path(__file__).parent.parent / "published"
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}  # losses of trl 1.16 that use label_smoothing


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
    return _mapping(path), path.name


def _mapping(path: Path) -> dict:
    """The mapping in a YAML file."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeProblem(f"{path.name}: not UTF-8 text; save it as such.") from error
    except yaml.YAMLError as error:
        raise RecipeProblem(
            f"{path.name}: not readable as YAML ({str(error).splitlines()[0]}); mend that line."
        ) from error
    if not isinstance(data, dict):
        raise RecipeProblem(f"{path.name}: a recipe is a mapping of keys; this file is not.")
    return data


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
    try:
        patch = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeProblem(f"override {text!r}: the value is not readable as YAML; check its brackets.") from error
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


def _check_shares(sources: tuple[Source, ...]) -> None:
    """Refuse a source with two meanings of how much, and a mixture in which they are not the same."""
    for one in sources:
        given = [k for k in ("limit", "share_of_source", "share_of_mixture") if getattr(one, k) is not None]
        if len(given) > 1:
            raise RecipeProblem(f"{one.source}: {' and '.join(given)} both say how many rows; keep one of them.")
    shares = [one.share_of_mixture is not None for one in sources]
    if any(shares) and not all(shares):
        raise RecipeProblem("share_of_mixture: give it for every source of the mixture, or for none.")


def _check(recipe: Recipe) -> Recipe:
    """Refuse combinations known to fail, before anything is loaded."""
    if recipe.dpo is None:
        raise RecipeProblem(f"{recipe.name}: the dpo stage is missing; what comes after it is measured on its pairs.")
    for stage in (recipe.sft, recipe.dpo):
        for sources in (stage.train, stage.held_out) if stage else ():
            _check_shares(sources)
    if "lm_head" in recipe.lora.targets:
        raise RecipeProblem(
            "lora.targets: no adapter on the head; TRL scores tokens with the head's own weight, "
            "so an adapter there would never train. Leave lm_head out."
        )
    if recipe.dpo and recipe.dpo.loss_weights and len(recipe.dpo.loss_weights) != len(recipe.dpo.loss):
        raise RecipeProblem("dpo.loss_weights: give one weight for each loss in dpo.loss, or none.")
    if recipe.dpo and "exo_pair" in recipe.dpo.loss and not recipe.dpo.label_smoothing:
        raise RecipeProblem("dpo.label_smoothing: exo_pair needs one above 0 (1e-3, say).")
    if recipe.dpo and recipe.dpo.label_smoothing and not SMOOTHED.intersection(recipe.dpo.loss):
        raise RecipeProblem(
            f"dpo.label_smoothing: none of {', '.join(recipe.dpo.loss)} uses it in trl 1.16; for DPO with some labels "
            f"wrong take the loss robust."
        )
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
    scales, variants = data.pop("scales", None) or {}, data.pop("variants", None) or {}
    if set(scales) - set(SCALES):
        unknown = sorted(set(scales) - set(SCALES))[0]
        raise RecipeProblem(f"{where}: scales holds an unknown scale {unknown!r}{_nearest(unknown, SCALES)}")
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
    return _build(_mapping(path), str(path))
