"""What the notebooks share: where one starts when it runs alone, shipped experiments, the growing strip of answers.

A notebook takes what the one before it left in `runs/`; where that is missing it takes the tiny adapters that are
shipped, and says which. Lessons: all.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from hermes_nb import audit, formats, history, models, recipes, runs, templates
from hermes_nb.errors import FileProblem
from hermes_nb.recipes import Recipe
from hermes_nb.runtime import runs_dir, samples_dir

NEEDS = {"format": (), "sft": (), "dpo": ("sft",), "merge": ("sft", "dpo"), "evaluate": ("sft", "dpo")}
TUNED = recipes.Model("teknium/OpenHermes-2.5-Mistral-7B", "24c0bea14d53e6f67f1fbe2eca5bfe7cae389b33", "chatml")
REPAIR = {"max_steps": 10}  # of SFT on complete cards, after the stop token was cut
FAILURES = ("cut_stop", "length_biased", "too_easy", "noisy")
QUESTION = "What is a Large Language Model?"
PROBE = [{"role": "system", "content": "You are a helpful assistant chatbot."}, {"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Start:
    """Where a notebook starts: its recipe, its run directory, the adapters it builds on, and the reason in a line."""

    recipe: Recipe
    out: Path
    adapters: dict[str, Path]  # stage name -> adapter folder
    line: str


def begin(stage: str, scale: str = "auto") -> Start:
    """Find what the notebook of `stage` (`format`, `sft`, `dpo`, `merge`, `evaluate`) starts from; prints the reason.

    From the run directory where its stages are done, else from the shipped adapters of the built-in model. At a GPU
    scale without a run, DPO starts from a model that is already tuned, and the later notebooks use the tiny one.
    """
    recipe = recipes.load("course", scale)
    out = runs_dir() / f"course-{recipe.scale}"
    start = _start(stage, recipe, out, _own(stage, out))
    print(start.line)
    return start


def _own(stage: str, out: Path) -> dict[str, Path]:
    """Adapters of the run `out` that belong together: a DPO adapter counts beside the SFT one that it started from."""
    own = {n: out / n / "adapter" for n in NEEDS[stage] if (out / n / "run.json").is_file()}
    if "dpo" not in own:
        return own
    parent = runs.Run(out / "dpo").meta.get("parent")
    candidates = [own["sft"]] if "sft" in own else []
    candidates += [shipped("sft")] if out.name.endswith("-tiny") else []
    fitting = [f for f in candidates if parent == runs.file_digest(f / "adapter_model.safetensors")]
    return {"sft": fitting[0], "dpo": own["dpo"]} if fitting else {n: f for n, f in own.items() if n != "dpo"}


def _start(stage: str, recipe: Recipe, out: Path, own: dict) -> Start:
    if set(own) == set(NEEDS[stage]):
        where = [f"{n} from {_origin(f, out)}" for n, f in own.items()]
        line = f"start: {', '.join(where) or 'nothing needed before this notebook'}"
        return Start(recipe, out, own, line)
    if recipe.model.base == "builtin":
        adapters = {n: shipped(n) for n in NEEDS[stage]}
        line = f"start: no run of yours yet, so the shipped adapters ({', '.join(adapters)})"
        return Start(recipe, out, adapters, line)
    tuned = Start(replace(recipe, model=TUNED, sft=None), out.with_name(out.name + "-tuned"), {}, "")
    if stage == "dpo":
        line = f"start: no SFT run at scale {recipe.scale}, so DPO starts from {TUNED.base}, which is tuned already: "
        return replace(tuned, line=line + "pairs must be likely under the policy")
    if stage == "merge" and (tuned.out / "dpo" / "run.json").is_file():
        return replace(tuned, adapters={"dpo": tuned.out / "dpo" / "adapter"}, line=f"start: dpo from {tuned.out.name}")
    tiny = begin(stage, "tiny")
    missing = " and ".join(n.upper() for n in NEEDS[stage] if n not in own)
    line = f"start: no {missing} run at scale {recipe.scale} yet, so the tiny model; 02 and 03 make one"
    return replace(tiny, line=line)


def _origin(adapter: Path, out: Path) -> str:
    """The run that an adapter is of, and whether that was stopped before its end."""
    if adapter.parent.parent != out:
        return "what is shipped"
    stopped = runs.Run(adapter.parent).stopped
    return f"{out.name} ({stopped})" if stopped else out.name


def shipped(stage: str) -> Path:
    """Folder of the shipped tiny adapter of `stage` (`sft` or `dpo`): r = 8, 16 bits, made by `make experiments`."""
    folder = samples_dir() / "adapters" / stage
    if not folder.is_dir():
        raise FileProblem(f"{folder}: missing; there are adapters of sft and dpo.")
    return folder


def small_base() -> Path:
    """Folder of the small base: a Llama of a million weights that we trained, in bf16; made by `make small-base`.

    Its stored weights are the ones that training left, where those of the built-in model come from a 4-bit file.
    Raises FileProblem when it is missing. Lesson: 04_merge.
    """
    folder = samples_dir() / "small_base"
    if not (folder / "model.safetensors").is_file():
        raise FileProblem(f"{folder}: no model there; make it with `make small-base` (three minutes), or reinstall.")
    return folder


def experiment(name: str) -> dict:
    """A shipped experiment: what was changed, its `history` (tidy frame), metrics, rates and answers.

    Made by `make experiments` on the built-in model; the file says on which machine and with which versions.
    Raises FileProblem naming the known ones.
    """
    folder = samples_dir() / "experiments"
    file = folder / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise FileProblem(f"no experiment {name!r}; there are {known}.")
    data = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        {"step": step, "split": "train", "metric": metric, "value": value}
        for metric, values in data["history"].items() for step, value in enumerate(values, 1)
    ]  # fmt: skip
    return data | {"history": history.frame(rows, name)}


def logged(name: str) -> Path:
    """A shipped history of a real run on the built-in model, for `history.load`, `history.looks` and every widget.

    Made by `make histories`; its first line says on which machine and with which versions. Raises FileProblem naming
    the known ones.
    """
    file = samples_dir() / f"history_{name}.jsonl"
    if not file.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("history_") for p in samples_dir().glob("history_*.jsonl")))
        raise FileProblem(f"no history {name!r}; there are {known}.")
    return file


@dataclass(frozen=True)
class Failure:
    """One of the four failures: its recipe, its pairs, the adapter that it starts from, and what was changed."""

    title: str
    recipe: Recipe
    rows: object  # Dataset of pairs
    start: Path
    out: Path


def failure(name: str) -> Failure:
    """A failure of 03_dpo, ready to train: one of `FAILURES`; always the tiny model. FileProblem for another name."""
    if name not in FAILURES:
        raise FileProblem(f"no failure {name!r}; there are {', '.join(FAILURES)}.")
    told = experiment(name)
    cut = {"too_long": "cut"} if "max_length" in told["changes"] else {}
    recipe = recipes.load("course", "tiny", overrides={"dpo": told["changes"] | cut})
    rows = formats.load("orca_dpo_pairs", told["pairs"])
    run = runs_dir() / "course-tiny"
    start = run / "sft" / "adapter" if (run / "sft" / "run.json").is_file() else shipped("sft")
    return Failure(told["title"], recipe, rows, start, run.with_name(f"failure-{name}"))


def repair() -> tuple[Recipe, dict]:
    """The repair of `cut_stop`: the recipe of a short SFT and its rows, complete cards only; always the tiny model."""
    recipe = recipes.load("course", "tiny", overrides={"sft": REPAIR})
    rows = formats.mixture(recipe.sft.train, recipe.seed)
    return recipe, {"train": rows.filter(lambda row: row["kind"] == "card")}


def speed() -> list[dict]:
    """What `bench dpo` measured on our machines, a row for each kind of lengths: TRL's defaults beside packed rows."""
    rows = []
    for file in sorted((samples_dir() / "benchmarks").glob("dpo_*.json")):
        told = runs.read_json(file)
        trl, ours = (told["sides"][side]["pairs_s"] for side in ("trl, defaults", "packed, on the fly"))
        cached, memory = told["ratios"]["cached"], told["ratios"].get("memory")
        rows.append({
            "lengths like": told["lengths"], "chip": told["machine"], "TRL's defaults": f"{trl:.2f} pairs/s",
            "packed": f"{ours:.2f} pairs/s", "packed, reference stored": f"{cached['median']:.1f} times TRL's",
            "peak memory": f"{memory['median']:.2f} of TRL's" if memory else "not measured",
        })  # fmt: skip
    return rows


def merging() -> dict:
    """What `bench merge` measured on our machines for a model of 7B: sides, ratios, the memory curve of one merge."""
    return runs.read_json(samples_dir() / "benchmarks" / "merge_cpu_7b.json")


def padded(recipe: Recipe) -> Recipe:
    """The same recipe with the engine off: pairs in padded rows, each prompt twice."""
    return replace(recipe, dpo=replace(recipe.dpo, packed=False))


def strip(out: Path, **texts: str) -> dict[str, str]:
    """The probe's answers, model name to text: shipped ones, overlaid by those of `out`; `texts` are added to it."""
    file = Path(out) / "probe.json"
    own = (runs.read_json(file) if file.is_file() else {}) | texts
    if texts:
        file.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(file, own)
    # what is shipped was written by the tiny model, and would mislead beside a larger one
    before = experiment("headline")["probe"] if file.parent.name.endswith("-tiny") else {}
    known = before | own
    return {name: known[name] for name in ("base", "sft", "dpo", "merged") if name in known}


# sample file of a source, where it is not raw/SOURCE.jsonl
SAMPLES = {
    "orca_dpo_pairs": "pairs_train.jsonl", "hermes_preference": "raw/hermes_preference.json",
    "pku_saferlhf_safe": "raw/pku_saferlhf.jsonl",
}  # fmt: skip


def as_published(base: str, max_length: int = 1024) -> list[dict]:
    """What the audit says of our sample rows as each published system rendered them: one dict a system and source.

    Systems that used Zephyr's template are judged by it; its stop token is added to the tokenizer where it lacks it.
    """
    tokenizers = {"chatml": models.tokenizer(base, "chatml"), "zephyr": _zephyr(base)}
    told = []
    for system, source in formats.VARIANTS:
        tokenizer = tokenizers["chatml" if system in ("dpopenhermes", "neuralhermes", "ambersafe") else "zephyr"]
        check = audit.pairs if formats.reader(source).makes == "pairs" else audit.conversations
        rows = formats.Stream(source, SAMPLES.get(source, f"raw/{source}.jsonl"), variant=system)
        found = check(rows, tokenizer, max_length, near=False)
        why = ", ".join(f"{n} {reason}" for reason, n in found.report["reasons"].items())
        told.append({"system": system, "source": source, "rows": found.report["rows"], "kept": found.report["kept"],
                     "what the audit says": why or "nothing"})  # fmt: skip
    return told


def _zephyr(base: str):
    """The tokenizer of `base` with Zephyr's template, and its stop token where the vocabulary lacks it."""
    tokenizer = models.tokenizer(base, "chatml")
    if tokenizer.convert_tokens_to_ids("</s>") in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    return templates.fit(tokenizer, "zephyr")
