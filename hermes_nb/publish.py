"""Before a model is published: its card from the run, the list of files, and what must not leave this machine.

Nothing here touches a network. Lesson: 04_merge.
"""

import re
from pathlib import Path

import yaml

from hermes_nb import evaluate, runs
from hermes_nb.errors import FileProblem

# hub name and licence of bases that the recipes use; licences as their cards state them
KNOWN = {
    "builtin": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "mistralai/Mistral-7B-v0.1": ("mistralai/Mistral-7B-v0.1", "apache-2.0"),
    "teknium/OpenHermes-2.5-Mistral-7B": ("teknium/OpenHermes-2.5-Mistral-7B", "apache-2.0"),
}
SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a secret key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a path of a machine": re.compile(
        r"(?:^|[\s\"'=:(,\[])(?:file://)?(?:/(?:home|root|Users|content|kaggle|tmp|mnt)/|[A-Za-z]:\\{1,2}\w)", re.M
    ),
}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
BINARY = (".safetensors", ".gguf", ".png", ".jpg", ".parquet", *PICKLES)
SHOWN = ("learning_rate", "schedule", "warmup", "rows_per_step", "epochs", "max_steps", "max_length", "neftune", "beta")
LIMITS = """- What was taught is the form of an answer. Nothing here says that its facts are right; check them.
- The figures above are of one run and one seed, on {n}; each holds for such questions only.
- It was not tested for safety, for bias, or in other languages than that of its data.
- The limits of the base model and of its licence hold here too."""


def card(out: Path | str, merge: dict | None = None) -> str:
    """A model card in Markdown from the run directory `out`: base, data, stages, settings, measured figures, limits.

    Reads `recipe.yaml`, `run.json` and `reports/`. `merge` are figures of `merge.compare_folders`, where the merge was
    made outside the pipeline; they may hold `stops`, a rate of `evaluate.rate` for greedy answers. What was not
    measured is said to be so. Data files and a local base appear by name, not by path.
    Raises FileProblem when `out` is no run directory.
    """
    out = Path(out)
    recipe, run = runs.read_yaml(out / "recipe.yaml"), runs.read_json(out / "run.json")
    stages = {name: stage["metrics"] | (stage.get("stopped") or {}) for name, stage in run["stages"].items()}
    reports = [p for name in ("merge", "evaluate") if (p := out / "reports" / f"{name}.json").is_file()]
    stages |= {p.stem: runs.read_json(p)["metrics"] for p in reports}
    if merge:
        stages["merge"] = merge
    base, licence = KNOWN.get(recipe["model"]["base"], (_name(recipe["model"]["base"]), "other"))
    return "\n".join(
        [
            _front(base, licence, recipe), f"# {_name(recipe['name'])}: {recipe['title']}\n",
            *_base(base, licence, recipe), *_settings(recipe, stages), *_figures(recipe, run, stages),
            "## Limits\n", LIMITS.format(n=_counted(stages)), "",
        ]
    )  # fmt: skip


def _front(base: str, licence: str, recipe: dict) -> str:
    """The YAML head that the hub reads."""
    ways = [name for name in ("sft", "dpo") if recipe.get(name)]
    head = {"base_model": base, "license": licence, "library_name": "transformers", "pipeline_tag": "text-generation"}
    return f"---\n{yaml.safe_dump(head | {'tags': [*ways, 'qlora', 'hermes_nb']}, sort_keys=False)}---\n"


def _name(text: str) -> str:
    """The last part of a path; a hub name (`owner/model`) stays."""
    plain = str(text).replace("\\", "/")
    return plain if plain.count("/") == 1 and plain[0] not in "./~" else plain.rstrip("/").rsplit("/", 1)[-1]


def _base(base: str, licence: str, recipe: dict) -> list[str]:
    model = recipe["model"]
    pinned = f", revision `{model['revision']}`" if model["revision"] else ""
    lines = ["## Base and data\n", f"- base: `{base}`{pinned}, chat template `{model['template']}`"]
    if licence == "other":
        lines.append("- licence: that of the base, which we do not know; look it up before you publish")
    for name in ("sft", "dpo"):
        for split in ("train", "held_out") if recipe.get(name) else ():
            rows = ", ".join(f"`{_name(s['path'] or s['source'])}` ({s['source']})" for s in recipe[name][split])
            lines.append(f"- {name}, {split.replace('_', ' ')}: {rows}")
    return [*lines, ""]


def _settings(recipe: dict, stages: dict) -> list[str]:
    """Hyperparameters of each stage, and whether this run has trained it."""
    lora = recipe["lora"]
    shape = f"LoRA r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']}"
    lines = [
        "## Stages\n",
        f"Base in NF4 with double quantization. Scale `{recipe['scale']}`, seed {recipe['seed']}.\n",
    ]
    for name in (n for n in ("sft", "dpo") if recipe.get(n)):
        if name not in stages:
            lines.append(
                f"- **{name}**: not trained in this run; its adapter came from elsewhere, settings not recorded"
            )
            continue
        settings = ", ".join(f"{k} {recipe[name][k]}" for k in SHOWN if k in recipe[name])
        steps = f"; {stages[name]['steps']} steps" if "steps" in stages[name] else ""
        steps += f" of {stages[name]['of']}: stopped early" if "of" in stages[name] else ""
        lines.append(f"- **{name}**: {shape}; {settings}{steps}")
    return [*lines, ""]


def _figures(recipe: dict, run: dict, stages: dict) -> list[str]:
    """What was measured, each with its n; what was not is said."""
    lines = ["## Measured\n"]
    if "merge" in stages:
        m = stages["merge"]
        lines.append(
            f"Merged ({m['dtype']}) against base and adapter in 4 bits, n = {m['tokens']} held-out tokens: KL "
            f"{m['kl']:.1e} nats a token ({m['kl_without_adapter']:.1e} without the adapter), likeliest token the same "
            f"in {m['top1']:.1%}.\n"
        )
        if "stops" in m:
            rate = m["stops"]
            lines.append(
                f"Greedy answers of the merged model that end by themselves: {rate['value']:.0%} "
                f"({rate['low']:.0%} to {rate['high']:.0%}, 95 % interval), n = {rate['n']}.\n"
            )
    if "evaluate" in stages:
        how = recipe["evaluate"]
        note = (
            f"Answers to {how['questions']} held-out questions, {how['samples']} each at temperature "
            f"{how['temperature']:g}, at most {how['max_new_tokens']} tokens; 95 % intervals."
        )
        lines.append(evaluate.markdown({"metrics": stages["evaluate"], "note": note}) + "\n")
    else:
        lines.append("Sampled answers (styles, stop rate) were not measured in this run.\n")
    versions = ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items())
    return [*lines, f"Machine: {run.get('chip')}, {run.get('dtype')}. {versions}\n"]


def _counted(stages: dict) -> str:
    if "evaluate" in stages:
        return f"{max(m['sampled']['card']['n'] for m in stages['evaluate'].values())} answers"
    return f"{stages['merge']['tokens']} tokens" if "merge" in stages else "no held-out measurement"


def plan(folder: Path | str) -> list[dict]:
    """Dry run: every file below `folder` that would be published, as rows of `file` and `mb`; nothing is sent.

    Hidden files and folders are left out. Raises FileProblem when there is no such folder.
    """
    return [{"file": name, "mb": round(path.stat().st_size / 1e6, 3)} for name, path in _files(folder)]


def findings(folder: Path | str) -> list[str]:
    """What speaks against publishing `folder`, one line each, without repeating a secret; empty when it is clean.

    Looks for tokens, keys and local paths in every text file, and for pickles, which run code when loaded (and in
    which TRL keeps the token that it was given).
    """
    out = []
    for name, path in _files(folder):
        if path.suffix in PICKLES:
            out.append(f"{name}: a pickle; it runs code when loaded and may hold a token. Leave it out.")
        if path.suffix not in BINARY:
            # a vocabulary holds pieces of everything, no whole secrets; wrong bytes in a text are no reason to stop
            text = path.read_text(encoding="utf-8", errors="replace")
            for what, pattern in SECRETS.items():
                found = pattern.search(text)
                if found:
                    out.append(f"{name}, line {text.count(chr(10), 0, found.end()) + 1}: {what}.")
    return out


def _files(folder: Path | str) -> list[tuple[str, Path]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise FileProblem(f"{folder}: no such folder; merge a model into it first.")
    inside = [(p.relative_to(folder), p) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [(name.as_posix(), p) for name, p in inside if not any(part.startswith(".") for part in name.parts)]
