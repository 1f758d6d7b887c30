"""The five stages in a row, each handing the next a folder: format, sft, dpo, merge, evaluate. Lesson: 00_tour."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from hermes_nb import runs
from hermes_nb.errors import FileProblem, RecipeProblem, ResourceProblem, RunProblem
from hermes_nb.formatting import format_rows, rows_of
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run
from hermes_nb.runtime import machine

STAGES = ("format", "sft", "dpo", "merge", "evaluate")


def run(
    recipe: Recipe, out: Path | str, stages=STAGES, say: Callable[[str], None] = lambda line: None, start=None
) -> dict:  # fmt: skip
    """Run `stages` of `recipe` in the run directory `out`; finished stages are not run again. Returns `run.json`.

    A later stage takes what an earlier one left in `out`; `start`, an adapter folder, is what DPO starts from in place
    of the SFT stage. `say` gets a line when a stage begins and ends.
    Raises RecipeProblem for an unknown stage, and whatever a stage raises; finished stages stay.
    """
    unknown = [s for s in stages if s not in STAGES]
    if unknown:
        raise RecipeProblem(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}.")
    out = Path(out)
    _claim(recipe, out)
    wanted = [s for s in STAGES if s in stages and not (s == "sft" and recipe.sft is None)]
    too_small = None
    for number, name in enumerate(wanted, 1):
        say(f"[{number}/{len(wanted)}] {name}")
        try:
            stage = STEPS[name](recipe, out, **({"start": start} if name in ("dpo", "merge") else {}))
        except ResourceProblem as problem:
            if name != "merge":
                raise
            too_small = problem  # what was trained can still be evaluated; said again at the end
            say(f"      not done: {problem}")
            continue
        say(f"      {_line(stage)}")
        if name in ("sft", "dpo"):
            say(f"      curves: {_curves(name, stage, out)}")
            _whole(stage)
        _summarise(recipe, out)
        gc.collect()
    if too_small:
        raise too_small
    return _summarise(recipe, out)


def _claim(recipe: Recipe, out: Path) -> None:
    """Check that the directory is not of another recipe; what is merged and evaluated may change."""
    with runs.locked(out):
        mine = recipe.to_dict()
        if (out / "recipe.yaml").is_file():
            theirs = runs.read_yaml(out / "recipe.yaml")
            free = (*runs.COSMETIC, "merge", "evaluate")
            differ = sorted(k for k in mine if k not in free and theirs.get(k) != mine[k])
            if differ:
                raise RunProblem(
                    f"{out}: holds a run of recipe {theirs.get('name')!r} at scale {theirs.get('scale')!r} "
                    f"(different: {', '.join(differ)}); choose another --out, or delete that folder."
                )


def _whole(stage: Run) -> Run:
    """The stage, unless it was stopped before its end: then RunProblem, since what follows would look like a result."""
    if stage.stopped:
        raise RunProblem(f"{stage.path}: {stage.stopped}; the same command with that stage goes on.")
    return stage


def _curves(name: str, stage: Run, out: Path) -> Path:
    """Draw a stage's curves to `reports/NAME.png`, what a terminal cannot show, unless they stand there; the file."""
    from hermes_nb import history, plots

    file, made = out / "reports" / f"{name}.png", stage.path / "run.json"
    if file.is_file() and file.stat().st_mtime >= made.stat().st_mtime:
        return file
    file.parent.mkdir(exist_ok=True)
    plots.curves(history.load(stage.path)).savefig(file, facecolor="white")
    return file


def _line(stage: Run) -> str:
    """What a stage reports when it ends."""
    meta = stage.meta
    keys = ("rows", "kept", "dropped", "train_loss", "train_margin", "moved", "kl", "top1")
    parts = [f"{k} {meta['metrics'][k]:.4g}" for k in keys if k in meta["metrics"]]
    return ", ".join([*([meta["batch"]] if "batch" in meta else []), *parts, f"{meta['seconds']:.0f} s"])


def _summarise(recipe: Recipe, out: Path) -> dict:
    """Write `recipe.yaml` and the run's own `run.json` from those of its stages."""
    done = {s: Run(out / s).meta for s in STAGES if (out / s / "run.json").is_file()}
    done |= {p.stem: runs.read_json(p) for p in sorted((out / "reports").glob("*.json"))}
    done = {s: done[s] for s in STAGES if s in done}
    last = list(done.values())[-1] if done else {}
    meta = {
        "recipe": recipe.name, "scale": recipe.scale, "variant": recipe.variant, "seed": recipe.seed,
        "seconds": round(sum(m["seconds"] for m in done.values()), 1),
        "peak_gb": max((m["peak_gb"] for m in done.values()), default=0.0),
        **{k: last.get(k) for k in ("device", "chip", "dtype", "dtype_reason", "versions")},
        "stages": {s: {k: m[k] for k in ("seconds", "metrics", "stopped") if m.get(k)} for s, m in done.items()},
    }  # fmt: skip
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False)
    if not (out / "recipe.yaml").is_file() or (out / "recipe.yaml").read_text(encoding="utf-8") != text:
        runs.write_text(out / "recipe.yaml", text)
    runs.write_json(out / "run.json", meta)
    return meta


def _sft(recipe: Recipe, out: Path) -> Run:
    from hermes_nb import sft

    return sft.train(recipe, rows_of(out, "sft"), out)


def _dpo(recipe: Recipe, out: Path, start: Path | None = None) -> Run:
    from hermes_nb import dpo

    if start is None and recipe.sft:
        start = out / "sft" / "adapter"
    if start == out / "sft" / "adapter" and not start.is_dir():
        raise FileProblem(f"{out / 'sft'}: missing; {recipe.name} starts DPO from it (--stages sft,dpo).")
    if start == out / "sft" / "adapter":
        _whole(Run(out / "sft"))
    return dpo.train(recipe, rows_of(out, "dpo"), out, start=start)


def _last_adapter(out: Path) -> Path:
    """The adapter to merge: DPO's, else SFT's."""
    for name in ("dpo", "sft"):
        if (out / name / "adapter").is_dir():
            return _whole(Run(out / name)).adapter
    raise FileProblem(f"{out}: no adapter here yet; run the dpo stage first.")


def _report(out: Path, name: str, key: str, make: Callable[[], dict]) -> Run:
    """A stage whose result is `reports/NAME.json`: made by `make()`, or read where it is of the same recipe."""
    path = out / "reports" / f"{name}.json"
    if path.is_file() and runs.read_json(path).get("key") == key:
        return Report(path)
    path.parent.mkdir(exist_ok=True)
    with runs.locked(out):
        begun = time.perf_counter()
        metrics = make()
        runs.write_json(path, {"stage": name, "key": key, "metrics": metrics, **runs.facts(begun)})
    return Report(path)


class Report(Run):
    """A finished stage that is one JSON file."""

    @property
    def meta(self) -> dict:
        """The file itself."""
        return runs.read_json(self.path)


def merge_run(recipe: Recipe, out: Path, start: Path | Run | None = None) -> Run:
    """Stage `merge`: the last adapter onto the base, into `out/merged`, as measured; `start` is where DPO began."""
    from hermes_nb import merge

    adapter, how = _last_adapter(out), recipe.merge
    digest = runs.file_digest(adapter / "adapter_model.safetensors")
    key = runs.fingerprint(runs.recipe_key(recipe.to_dict(), "merge"), digest)
    onto = ("dequantized", "original") if how.onto == "auto" else (how.onto,)
    dtype = merge.choose_dtype(machine().device) if how.dtype == "auto" else how.dtype

    def make() -> dict:
        asked = {"adapter": adapter, "start": start.adapter if isinstance(start, Run) else start}
        questions = recipe.evaluate.greedy_questions or 1
        return merge.compare(out, onto, (dtype,), **asked, questions=questions, keep=out / "merged")

    if not _is_reported(out, digest):
        (out / "reports" / "merge.json").unlink(missing_ok=True)
    return _report(out, "merge", key, make)


def _is_reported(out: Path, digest: str) -> bool:
    """Whether `out/merged` is the merge that the report tells of, made of the adapter with this digest."""
    report, record = out / "reports" / "merge.json", out / "merged" / "merge.json"
    if not report.is_file() or not record.is_file():
        return False
    told, made = runs.read_json(report).get("metrics", {}), runs.read_json(record)
    same = all(key in made and made[key] == told.get(key) for key in ("onto", "dtype"))
    return same and [adapter["sha256"] for adapter in made.get("adapters", [])] == [digest]


def evaluate_run(recipe: Recipe, out: Path) -> Run:
    """Stage `evaluate`: what base, SFT, DPO and merged model write and score on held-out rows."""
    from hermes_nb import evaluate

    adapters = {n: _whole(Run(out / n)).adapter for n in ("sft", "dpo") if (out / n / "adapter").is_dir()}
    merged = out / "merged" if (out / "merged").is_dir() else None
    digests = [runs.file_digest(a / "adapter_model.safetensors") for a in adapters.values()]
    key = runs.fingerprint(runs.recipe_key(recipe.to_dict(), "evaluate"), digests, merged is not None)

    def make() -> dict:
        pairs = rows_of(out, "dpo")["held_out"]
        conversations = rows_of(out, "sft")["held_out"] if recipe.sft else None
        return evaluate.compare(recipe, adapters, merged, pairs, conversations)

    return _report(out, "evaluate", key, make)


def publish_results(out: Path, file: Path, readme: Path) -> dict:
    """Write what was measured in run `out` to `file` (JSON), and its table between the marks in `readme`."""
    from hermes_nb import evaluate

    meta, dpo = runs.read_json(out / "run.json"), Run(out / "dpo").meta
    how = runs.read_yaml(out / "recipe.yaml")["evaluate"]
    sampled = {name: {"sampled": scores["sampled"]} for name, scores in evaluate.report(out).items()}
    results = {
        "note": f"Recipe {meta['recipe']} at scale {meta['scale']}, seed {meta['seed']}: {how['questions']} held-out "
        f"questions, {how['samples']} answers each at temperature {how['temperature']:g}, at most "
        f"{how['max_new_tokens']} tokens. 95 % intervals. {meta['seconds'] / 60:.0f} minutes in all on {dpo['chip']}, "
        f"{dpo['dtype']}, peak {meta['peak_gb']:.1f} GB.",
        "metrics": sampled, "stages": {s: m["seconds"] for s, m in meta["stages"].items()},
        "merge": meta["stages"]["merge"]["metrics"], "versions": meta["versions"],
    }  # fmt: skip
    return write_results(results, file, readme)


def write_results(results: dict, file: Path, readme: Path) -> dict:
    """Write `results` (`note`, `metrics`, ...) to `file` as JSON, and their table between the marks in `readme`."""
    from hermes_nb import evaluate

    before, begin, rest = (readme.read_text(encoding="utf-8") if readme.is_file() else "").partition("<!-- results: ")
    if not begin:
        raise FileProblem(f"{readme}: has no marks for the results; call this at the root of the checkout.")
    file.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(file, results)
    name, end = rest.split(" -->", 1)[0], "<!-- /results -->"
    text = f"{before}{begin}{name} -->\n{evaluate.markdown(results)}\n{end}{rest.split(end, 1)[1]}"
    runs.write_text(readme, text)
    return results


STEPS = {"format": format_rows, "sft": _sft, "dpo": _dpo, "merge": merge_run, "evaluate": evaluate_run}
