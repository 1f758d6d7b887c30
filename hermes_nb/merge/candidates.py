"""Candidates of a merge measured against the model that was trained, and the choice among them.

A candidate differs in what it is merged onto and in the format it is saved in. Lesson: 04_merge.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from hermes_nb import models, recipes, runs
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import asking, keeping, stored, survival
from hermes_nb.merge.asking import Asked, Told
from hermes_nb.merge.choice import BITS, best
from hermes_nb.merge.weights import DTYPES, ONTO, merge
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.runtime import machine, need_memory


def compare(
    run: Path | str, onto: Iterable[str] = ("original", "dequantized"), dtype: Iterable[str] = ("bfloat16", "float16"),
    adapter: Path | str | None = None, start: Path | str | None = None, pairs: int = 24, questions: int = 20,
    max_new_tokens: int = 96, keep: Path | str | None = None, say: Callable[[str], None] = lambda line: None,
) -> dict:  # fmt: skip
    """Merge every candidate of `onto` x `dtype`, measure each against base and adapter in 4 bits, and choose.

    `run` is a run directory with its held-out pairs; `adapter` is the one to merge (default: the run's last), `start`
    the one that DPO started from, the reference of the rewards (default: what the `run.json` beside the adapter names,
    where that is the run's SFT adapter or the base alone). On `pairs` held-out pairs: mean KL (nats a token) and top-1
    agreement on the chosen answers, reward accuracy; on `questions` prompts: greedy answers that end by themselves
    within `max_new_tokens`. Of the adapter: the share of each tensor's delta that survives rounding in each format.
    The chosen candidate is left in folder `keep` where one is named, in place of a merged model that stood there; the
    others are deleted as soon as a better one is measured, so the disk holds two at most. Returns plain data: figures
    of the chosen one, `candidates`, `trained`, `survival`, `layers`, `reason`. It also stands in `reports/merge.json`,
    where `choose` reads it. A call after a kill goes on with the candidates that were merged.
    Raises FileProblem without an adapter, its start, held-out pairs, or a place for `keep`; RecipeProblem for unknown
    words; ResourceProblem where the memory is too small to measure; and what `merge` raises.
    """
    run, begun = Path(run), time.perf_counter()
    pairings = [(o, d) for d in _words("dtype", dtype, DTYPES) for o in _words("onto", onto, ONTO)]
    recipe = recipes.read(run / "recipe.yaml")
    adapter = Path(adapter) if adapter else _last(run)
    start, keep = _started(run, adapter, start), Path(keep) if keep else None
    if keep:
        keeping.check(keep, run, recipe.model.base)
    asked = asking.asked(recipe, run, pairs, questions, max_new_tokens)
    survived = _survival(recipe, adapter, [d for _, d in pairings])  # first: what does not fit is found in seconds
    work = run / ".candidates"
    try:
        result, left = _measured(recipe, adapter, start, asked, pairings, work, say)
        result |= survived
        _report(run, adapter, result, begun)
        if keep:  # the report comes first: no model stands under the figures of another
            keeping.take(left, keep)
    except Exception:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)  # not after a kill
    return result


def _report(run: Path, adapter: Path, result: dict, begun: float) -> None:
    """Add to `result` which adapter it is of, and write `reports/merge.json`."""
    result |= {"adapter": runs.file_digest(adapter / WEIGHTS), "adapter_mb": (adapter / WEIGHTS).stat().st_size / 1e6}
    (run / "reports").mkdir(exist_ok=True)
    runs.write_json(run / "reports" / "merge.json", {"stage": "merge", "metrics": result, **runs.facts(begun)})


def _words(name: str, given: Iterable[str], known: tuple) -> list[str]:
    """The words of one setting, each once. Raises RecipeProblem for none, or an unknown one."""
    words, known = list(dict.fromkeys([given] if isinstance(given, str) else given)), [w for w in known if w != "auto"]
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        raise RecipeProblem(f"merge: {name} {', '.join(map(repr, unknown)) or 'is empty'}; give {', '.join(known)}.")
    return words


def _last(run: Path) -> Path:
    """The adapter that a run ends with."""
    for name in ("dpo", "sft"):
        if (run / name / "adapter").is_dir():
            return run / name / "adapter"
    raise FileProblem(f"{run}: no adapter here yet; run the dpo stage first.")


def _started(run: Path, adapter: Path, start: Path | str | None) -> Path | None:
    """The adapter that rewards are measured from, by what `run.json` beside `adapter` says; None is the base."""
    near = [Path(start)] if start else []
    record = adapter.parent / "run.json"
    if not record.is_file():  # an adapter from elsewhere
        return near[0] if near else None
    parent = runs.read_json(record).get("parent")
    if parent is None:
        return None
    near += [folder for folder in (adapter.parent.parent / "sft" / "adapter", run / "sft" / "adapter")]
    for folder in near:
        if (folder / WEIGHTS).is_file() and runs.file_digest(folder / WEIGHTS) == parent:
            return folder
    raise FileProblem(
        f"{record}: this adapter was trained from another one (sha256 {parent[:12]}...), which is not "
        f"{' or '.join(map(str, dict.fromkeys(near)))}; name the folder that training started from (start, --start)."
    )


def _measured(recipe, adapter: Path, start, asked: Asked, pairings: list, work: Path, say) -> tuple[dict, Path]:
    """The figures of all candidates and of the trained model, and the folder of the chosen one."""
    _room(recipe, max(BITS[d] for _, d in pairings))
    _clean(work, [f"{o}-{d}" for o, d in pairings])
    trained, start_logps, bare = asking.trained(recipe, adapter, start, asked)
    out, left = {}, None
    for onto, dtype in pairings:
        name, folder = f"{onto}, {dtype}", work / f"{onto}-{dtype}"
        _merge(recipe, adapter, folder, onto, dtype)
        told = asking.said(models.load_plain(str(folder), dtype), asked)
        figures = asking.figures(trained, told, start_logps, asked)
        out[name] = {"onto": onto, "dtype": dtype} | figures | {"mb": _mb(folder)}
        say(f"{name}: KL {out[name]['kl']:.1e} nats a token, top-1 {out[name]['top1']:.1%}")
        chosen = best(out, bare)
        left = _better(left, folder, chosen)
    return _result(out, chosen, trained, start_logps, bare, asked), left


def _room(recipe, bits: int) -> None:
    """Raise ResourceProblem where no candidate could be loaded: before one is written. A GPU spreads what is large."""
    if machine().device == "cpu":
        table = stored.table(survival.base_folder(recipe.model.base, recipe.model.revision))
        numbers = sum(math.prod(entry.shape) for entry in table.values())
        need_memory(numbers * bits / 8e9, "measuring a merged model, which is loaded unquantized,")


def _clean(work: Path, names: list[str]) -> None:
    """Delete candidates that an earlier call has left and this one does not ask for."""
    for path in work.iterdir() if work.is_dir() else ():
        if path.name not in names and path.name not in [f".{name}.work" for name in names]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _merge(recipe, adapter: Path, folder: Path, onto: str, dtype: str) -> None:
    """Merge into `folder`; one that an earlier call left there of another base or adapter is deleted."""
    part = recipe.model
    for last in (False, True):
        try:
            merge(part.base, adapter, folder, onto, dtype, recipe.merge.max_shard_size, part.revision, part.template)
            return
        except FileProblem:
            if last or not folder.exists():
                raise
            shutil.rmtree(folder)


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
        "kl_without_adapter": bare, "trained": asking.rates(trained, start, asked), "candidates": out,
        "pairs": len(asked.pairs), "questions": len(asked.prompts),
    }  # fmt: skip


def _survival(recipe, adapter: Path, dtype: Iterable[str]) -> dict:
    """How much of each layer's delta is left in each format: rows, and the median and the lowest of them."""
    folder = survival.base_folder(recipe.model.base, recipe.model.revision)
    layers = {form: survival.by_layer(folder, adapter, form) for form in sorted(set(dtype), key=BITS.get)}
    kept = {form: [row["cosine"] for row in rows] for form, rows in layers.items()}
    return {"layers": layers, "survival": {f: {"median": median(c), "low": min(c)} for f, c in kept.items()}}
