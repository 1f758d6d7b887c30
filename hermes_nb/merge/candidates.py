"""Candidates of a merge measured against the model that was trained, and the choice among them.

A candidate differs in what it is merged onto and in the format it is saved in. Lesson: 04_merge.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hermes_nb import evaluate, generate, models, recipes, reference, runs
from hermes_nb.errors import FileProblem
from hermes_nb.formatting import rows_of
from hermes_nb.merge import faithful, survival
from hermes_nb.merge.choice import BITS, best
from hermes_nb.merge.weights import merge
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.runtime import give_back

TOKENS = 2000  # of held-out answers on which expectations are compared; more would fill the memory


@dataclass(frozen=True)
class Asked:
    """What every model is asked: held-out pairs, the first of them for KL, prompts to answer."""

    tokenizer: object
    pairs: object
    few: object
    prompts: list
    max_new_tokens: int
    beta: float


@dataclass(frozen=True)
class Told:
    """What one model said: what it expects, the log-probabilities of the pairs, which of its answers end."""

    expected: list
    logps: tuple
    stops: list[bool]


def compare(
    run: Path | str, onto: Iterable[str] = ("original", "dequantized"), dtype: Iterable[str] = ("bfloat16", "float16"),
    adapter: Path | str | None = None, start: Path | str | None = None, pairs: int = 24, questions: int = 20,
    max_new_tokens: int = 96, keep: Path | str | None = None, say: Callable[[str], None] = lambda line: None,
) -> dict:  # fmt: skip
    """Merge every candidate of `onto` x `dtype`, measure each against base and adapter in 4 bits, and choose.

    `run` is a run directory with its held-out pairs; `adapter` is the one to merge (default: the run's last), `start`
    the one that DPO started from, the reference of the rewards (default: the run's SFT adapter where DPO has one, else
    the base alone). On `pairs` held-out pairs: mean KL (nats a token) and top-1 agreement on the chosen answers, reward
    accuracy; on `questions` prompts: greedy answers that end by themselves within `max_new_tokens`. Of the adapter: the
    share of each tensor's delta that survives rounding in each format (cosine).
    The chosen candidate is left in folder `keep` where one is named; the others are deleted as soon as a better one is
    measured, so the disk holds two at most. Returns plain data, as it is written to `reports/merge.json`: figures of
    the chosen one, `candidates`, `trained`, `survival`, `layers`, `reason`. `choose` reads it from there.
    Raises FileProblem without an adapter, and what `merge` raises.
    """
    run = Path(run)
    recipe = recipes.read(run / "recipe.yaml")
    adapter = Path(adapter) if adapter else _last(run)
    asked = _asked(recipe, run, pairs, questions, max_new_tokens)
    trained, start_logps, bare = _trained(recipe, adapter, _started(run, adapter, start), asked)
    out, left = {}, None
    for name, (one, form) in {f"{o}, {d}": (o, d) for d in dtype for o in onto}.items():
        folder = run / ".candidates" / name.replace(", ", "-")
        part = recipe.model
        merge(part.base, adapter, folder, one, form, recipe.merge.max_shard_size, part.revision, part.template)
        told = _said(models.load_plain(str(folder), form), asked)
        out[name] = {"onto": one, "dtype": form} | _figures(trained, told, start_logps, asked) | {"mb": _mb(folder)}
        say(f"{name}: KL {out[name]['kl']:.1e} nats a token, top-1 {out[name]['top1']:.1%}")
        chosen = best(out, bare)
        left = _better(left, folder, chosen)
    result = _result(out, chosen, trained, start_logps, bare, asked)
    result |= _survival(recipe, adapter, dtype) | {"adapter": runs.file_digest(adapter / WEIGHTS)}
    result["adapter_mb"] = (adapter / WEIGHTS).stat().st_size / 1e6
    _keep(left, Path(keep) if keep else None, run)
    return result


def _last(run: Path) -> Path:
    """The adapter that a run ends with."""
    for name in ("dpo", "sft"):
        if (run / name / "adapter").is_dir():
            return run / name / "adapter"
    raise FileProblem(f"{run}: no adapter here yet; run the dpo stage first.")


def _started(run: Path, adapter: Path, start) -> Path | None:
    """The adapter that rewards are measured from; None is the base."""
    if start:
        return Path(start)
    sft = run / "sft" / "adapter"
    return sft if adapter.parent.name == "dpo" and sft.is_dir() else None


def _asked(recipe, run: Path, pairs: int, questions: int, max_new_tokens: int) -> Asked:
    rows = rows_of(run, "dpo")
    held_out = rows.get("held_out", rows["train"])
    part = recipe.model
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    chosen = held_out.select(range(min(pairs, len(held_out))))
    count = few = 0
    for few, row in enumerate(chosen, 1):  # noqa: B007 (how many it takes)
        count += len(tokenizer.encode(row["chosen"][-1]["content"]))
        if count > TOKENS:
            break
    prompts = [generate.prompt_of(row) for row in held_out.select(range(min(questions, len(held_out))))]
    return Asked(tokenizer, chosen, chosen.select(range(few)), prompts, max_new_tokens, recipe.dpo.beta)


def _trained(recipe, adapter: Path, start: Path | None, asked: Asked) -> tuple[Told, tuple, float]:
    """What base and adapter in 4 bits say, the reference's log-probabilities, and the KL of the base without any."""
    part = recipe.model
    adapters = {"trained": adapter} | ({"start": start} if start else {})
    model = models.load_adapters(models.load_4bit(part.base, revision=part.revision), adapters)
    with models.active(model, "trained"):
        trained = _said(model, asked, keep=True)
    with models.active(model, "start" if start else "base"):
        start_logps = reference.pair_logps(model, asked.tokenizer, asked.pairs)
    with models.active(model, "base"):
        bare = faithful.divergence(trained.expected, faithful.expected(model, asked.tokenizer, asked.few))["kl"]
    return trained, start_logps, bare


def _said(model, asked: Asked, keep: bool = False) -> Told:
    """Ask one model; unless `keep`, its expectations are read once, as they come."""
    give_back()
    expected = faithful.expected(model, asked.tokenizer, asked.few)
    if keep:
        expected = list(expected)
    logps = reference.pair_logps(model, asked.tokenizer, asked.pairs)
    answers = generate.answers(model, asked.tokenizer, asked.prompts, asked.max_new_tokens)
    return Told(expected, logps, [answer.stops for answer in answers])


def _figures(trained: Told, told: Told, start: tuple, asked: Asked) -> dict:
    """One candidate against the trained model."""
    scores = _rates(told, start, asked)
    before = _rates(trained, start, asked)
    change = {f"{key}_change": scores[key]["value"] - before[key]["value"] for key in scores}
    return faithful.divergence(trained.expected, told.expected) | scores | change


def _rates(told: Told, start: tuple, asked: Asked) -> dict:
    """Reward accuracy and stop rate with their intervals."""
    margins = evaluate.margins(told.logps, start, asked.beta)
    return {"accuracy": evaluate.rate(m > 0 for m in margins), "stops": evaluate.rate(told.stops)}


def _mb(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e6


def _better(left: Path | None, folder: Path, chosen) -> Path:
    """Of the best candidate so far and the one just measured, the one that is chosen; the other is deleted."""
    mine = folder.name == f"{chosen.onto}-{chosen.dtype}"
    if left or not mine:
        shutil.rmtree(left if mine else folder)
    return folder if mine else left


def _result(out: dict, chosen, trained: Told, start: tuple, bare: float, asked: Asked) -> dict:
    mine = out[f"{chosen.onto}, {chosen.dtype}"]
    return {
        "onto": chosen.onto, "dtype": chosen.dtype, "reason": chosen.reason,
        **{key: mine[key] for key in ("kl", "top1", "tokens", "accuracy", "stops")}, "merged_mb": mine["mb"],
        "kl_without_adapter": bare, "trained": _rates(trained, start, asked), "candidates": out,
        "pairs": len(asked.pairs), "questions": len(asked.prompts),
    }  # fmt: skip


def _survival(recipe, adapter: Path, dtype: Iterable[str]) -> dict:
    """How much of each layer's delta is left in each format: rows, and the median and the lowest of them."""
    folder = survival.base_folder(recipe.model.base, recipe.model.revision)
    layers = {form: survival.by_layer(folder, adapter, form) for form in sorted(set(dtype), key=BITS.get)}
    kept = {form: [row["cosine"] for row in rows] for form, rows in layers.items()}
    return {"layers": layers, "survival": {f: {"median": median(c), "low": min(c)} for f, c in kept.items()}}


def _keep(left: Path, keep: Path | None, run: Path) -> None:
    """Give the chosen candidate its place, or delete it as well."""
    if keep:
        shutil.rmtree(keep, ignore_errors=True)
        left.rename(keep)
    shutil.rmtree(run / ".candidates", ignore_errors=True)
