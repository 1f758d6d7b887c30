"""The model card: what a run did and measured, as Markdown with the YAML head that the hub reads. Lesson: 04_merge."""

from pathlib import Path

import yaml

from hermes_nb import runs, templates
from hermes_nb.errors import FileProblem
from hermes_nb.publish import figures, origins
from hermes_nb.publish.markdown import code, plain, table
from hermes_nb.publish.origins import Base

SHOWN = ("learning_rate", "schedule", "warmup", "rows_per_step", "epochs", "max_steps", "max_length", "neftune", "beta")
MERGED_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{name}"  # OWNER/NAME on the hub, or the folder
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
messages = [{{"role": "user", "content": "Why does bread rise?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=128)
print(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""
LOADING = "tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)"
ADAPTER_USE = MERGED_USE.replace("from transformers", "from peft import PeftModel\nfrom transformers").replace(
    LOADING,
    "tokenizer = AutoTokenizer.from_pretrained(name)\n"
    'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
    "model = PeftModel.from_pretrained(base, name)",
)
LIMITS = """- What was taught is the form of an answer. Nothing here says that its facts are right; check them.
- {figures}
- It was not tested for safety, for bias, or in other languages than that of its data.
- The limits of the base model and of its licence, and those of the data's licences, hold here too.
"""


def card(
    out: Path | str, merge: dict | None = None, *, adapter: bool = False, last: str | None = None,
    name: str | None = None, folder: Path | str | None = None,
) -> str:  # fmt: skip
    """A model card in Markdown from the run directory `out`: use, base, data, stages, settings, figures, limits.

    Reads `recipe.yaml`, `run.json`, `format/audit.json` and `reports/`. `merge` are figures of
    `merge.compare_folders`, where the merge was made outside the pipeline; they may hold `stops`, a rate of
    `evaluate.rate` for greedy answers. `adapter` makes it the card of an adapter instead of the merged model, `last`
    names the last stage in it (`sft` or `dpo`, the default), `name` is what the example loads, and `folder` (default
    `out/merged`) holds the merged model's `merge.json`. What was not measured or recorded is said to be so; data files
    and a local base appear by name, not by path.
    Raises FileProblem when `out` is no run directory.
    """
    out = Path(out)
    recipe, run = runs.read_yaml(out / "recipe.yaml"), runs.read_json(out / "run.json")
    found = _metrics(out, run) | ({"merge": merge} if merge else {})
    stages = [s for s in ("sft", "dpo") if recipe.get(s) and (s == "sft" or last != "sft")]
    base = origins.base(recipe["model"]["base"])
    name = name or origins.repo_name(base, stages[-1], adapter)
    return "\n".join(
        [
            _front(base, stages, recipe, adapter),
            f"# {plain(origins.last(recipe['name']))}: {plain(recipe['title'])}\n",
            *_what(base, stages, recipe, run, adapter), *_use(base, recipe, adapter, name),
            *_origin(base, recipe, stages, out), *_settings(recipe, stages, found),
            *([] if adapter else _weights(Path(folder) if folder else out / "merged")),
            *figures.measured(recipe, run, found, adapter), *_limits(found, adapter),
        ]
    )  # fmt: skip


def _metrics(out: Path, run: dict) -> dict:
    """Every stage's metrics, and whether it was stopped: from the run's own file and its reports."""
    found = {name: stage["metrics"] | (stage.get("stopped") or {}) for name, stage in run["stages"].items()}
    reports = [p for name in ("merge", "evaluate") if (p := out / "reports" / f"{name}.json").is_file()]
    return found | {p.stem: runs.read_json(p)["metrics"] for p in reports}


def _front(base: Base, stages: list[str], recipe: dict, adapter: bool) -> str:
    """The YAML head. The hub refuses a base that is no name of its own, so a local one is named in the text alone."""
    head = {"base_model": base.hub, "base_model_relation": "adapter" if adapter else "finetune"} if base.hub else {}
    head |= {"license": base.licence, "library_name": "peft" if adapter else "transformers"}
    head |= {"pipeline_tag": "text-generation", "datasets": origins.hub_sets(recipe, stages)}
    head["tags"] = [*stages, "qlora", *(["lora"] if adapter else []), "hermes_nb"]
    return f"---\n{yaml.safe_dump({k: v for k, v in head.items() if v}, sort_keys=False)}---\n"


def _what(base: Base, stages: list[str], recipe: dict, run: dict, adapter: bool) -> list[str]:
    """One paragraph: what this is and what made it."""
    kind = "A LoRA adapter for" if adapter else "Plain weights, merged from an adapter for"
    version = (run.get("versions") or {}).get("hermes_nb", "(version not recorded)")
    made = f"recipe {code(recipe['name'])}, variant {code(recipe['variant'])}, scale {code(recipe['scale'])}"
    changed = [_override(text) for text in recipe.get("overrides") or ()]
    more = f", changed: {', '.join(changed)}" if changed else ""
    return [
        f"{kind} {code(base.name)}, trained in 4 bits (QLoRA): {' then '.join(stages)}. Made with hermes_nb "
        f"{plain(version)}, {made}, seed {recipe['seed']}{more}.\n"
    ]


def _override(text: str) -> str:
    """An override as it may be shown: its key, and its value unless that may be a path."""
    key, _, value = str(text).partition("=")
    return code(text) if not set(value) & set("/\\") else f"{code(key)} (a value not shown)"


def _use(base: Base, recipe: dict, adapter: bool, name: str) -> list[str]:
    """How to ask it: template, stop token, and the lines that load it."""
    template = recipe["model"]["template"]
    stop = f", each turn ends with {code(templates.STOP[template])}" if template in templates.STOP else ""
    lines = [
        "## Use\n",
        f"Prompts are laid out by the chat template beside the tokenizer ({code(template)}{stop}). With "
        "`add_generation_prompt=True` the prompt ends where an answer begins; without it the model may write on the "
        "question.\n",
    ]
    if not adapter:
        return [*lines, MERGED_USE.format(name=name)]
    lines.append(ADAPTER_USE.format(name=name, base=base.hub or "FOLDER/OF/THE/BASE"))
    lines.append("It was trained on the base in NF4; on a base in another number format its answers differ a little.\n")
    if not base.hub:
        lines.append(f"Its base, {code(base.name)}, is not on the hub under that name: without that folder, no use.\n")
    return lines


def _origin(base: Base, recipe: dict, stages: list[str], out: Path) -> list[str]:
    """Base and data, each with its licence as far as that is known."""
    revision = recipe["model"]["revision"]
    pinned = f"revision {code(revision)}" if revision else "no revision pinned"
    lines = ["## Base and data\n", f"- base: {code(base.name)}, {base.note or pinned}"]
    if base.licence == origins.UNKNOWN:
        lines.append("- licence of the base: not known to us; look it up before you publish")
    else:
        lines.append(f"- licence of the base: {base.licence}, as its card states")
    rows = origins.data(recipe, stages, out)
    shown = [
        r | {k: code(r[k], cell=True) for k in ("name", "schema")} | {"licence": plain(r["licence"])} for r in rows
    ]
    return [*lines, "", table([{k if k != "rows" else "rows kept": v for k, v in r.items()} for r in shown])]


def _settings(recipe: dict, stages: list[str], found: dict) -> list[str]:
    """Hyperparameters of each stage, and whether this run has trained it."""
    lora = recipe["lora"]
    shape = f"LoRA r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']}"
    lines = ["## Stages\n", "Base in NF4 with double quantization, adapters in fp32.\n"]
    for name in stages:
        if name not in found:
            lines.append(
                f"- **{name}**: not trained in this run; its adapter came from elsewhere, settings not recorded"
            )
            continue
        settings = ", ".join(f"{k} {plain(recipe[name][k])}" for k in SHOWN if k in recipe[name])
        steps = f"; {found[name]['steps']} steps" if "steps" in found[name] else ""
        steps += f" of {found[name]['of']}: stopped early" if "of" in found[name] else ""
        lines.append(f"- **{name}**: {shape}; {settings}{steps}")
    return [*lines, ""]


def _weights(folder: Path) -> list[str]:
    """What `merge.json` says of the merged file: from which adapters, onto what, how large."""
    try:
        told = runs.read_json(folder / "merge.json")
    except FileProblem:
        return []
    parts = [f"{code(one['name'])} (sha256 {code(one['sha256'][:12])})" for one in told["adapters"]]
    return [
        f"Merged from {', then '.join(parts)} onto the {plain(told['onto'])} base (trained in "
        f"{plain(told['trained_in'])}), saved as {plain(told['dtype'])}: {told['parameters']:,} parameters, "
        f"{told['bytes'] / 1e6:,.0f} MB.\n"
    ]


def _limits(found: dict, adapter: bool) -> list[str]:
    n = figures.counted(found, adapter)
    rests = f"The figures above are of one run and one seed, on {n}; each holds for such questions only."
    return ["## Limits\n", LIMITS.format(figures=rests if n else "No figure on held-out rows was taken in this run.")]
