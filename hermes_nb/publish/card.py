"""The model card: what a run did and measured, as Markdown with the YAML head that the hub reads. Lesson: 04_merge."""

import json
from pathlib import Path

import yaml

from hermes_nb import recipes, runs, templates
from hermes_nb.errors import FileProblem
from hermes_nb.publish import figures, origins, record
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
ADAPTER_USE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

name = "{name}"  # OWNER/NAME on the hub, or the folder
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
tokenizer = AutoTokenizer.from_pretrained(name)
base = AutoModelForCausalLM.from_pretrained("{base}", {revision}quantization_config=nf4)
model = PeftModel.from_pretrained(base, name)
messages = [{{"role": "user", "content": "Why does bread rise?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
out = model.generate(**inputs.to(model.device), max_new_tokens=128)
print(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""
LIMITS = """- What was taught is the form of an answer. Nothing here says that its facts are right; check them.
- {figures}
- It was not tested for safety, for bias, or in other languages than that of its data.
- The limits of the base model and of its licence, and those of the data's licences, hold here too.
"""


def card(
    out: Path | str, *, adapter: bool = False, last: str | None = None, name: str | None = None,
    folder: Path | str | None = None,
) -> str:  # fmt: skip
    """A model card in Markdown from the run directory `out`: use, base, data, stages, settings, figures, limits.

    Reads `recipe.yaml`, `run.json`, `format/audit.json` and `reports/`. `adapter` makes it the card of an adapter
    instead of the merged model, `last` names the last stage in it (`sft` or `dpo`; default: that of the merge, else
    the recipe's), `name` is what the example loads, and `folder` (default `out/merged`) holds the merged model's
    `merge.json`. What was not measured or recorded is said to be so, and a report of another merge is not quoted; data
    files and a local base appear by name, not by path.
    Raises RecipeProblem when `out` is no run directory, FileProblem when its files are damaged or the merged model is
    not of this run.
    """
    out = Path(out)
    recipe, run = recipes.read(out / "recipe.yaml").to_dict(), runs.read_json(out / "run.json")
    folder = None if adapter else Path(folder) if folder else out / "merged"
    told = record.read(folder) if folder else None
    last = last or (record.last_stage(folder, False, out) if folder else "")
    try:
        found = _metrics(out, run)
        found["merge"] = record.figures(told, found.get("merge") or {})
        return _text(out, recipe, run, found, told, adapter, origins.stages(recipe, last), name)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FileProblem(
            f"{out}: run.json or a file in reports is damaged ({error!r}); run that stage again."
        ) from error


def _text(out, recipe: dict, run: dict, found: dict, told, adapter: bool, stages: list[str], name: str | None) -> str:
    """The card from what was read."""
    base = origins.base(recipe["model"]["base"])
    name = name or f"{origins.USER}/{origins.repo_name(base, stages[-1], adapter)}"
    return "\n".join(
        [
            _front(base, stages, recipe, adapter, out),
            f"# {plain(origins.last(recipe['name']))}: {plain(recipe['title'])}\n",
            *_what(base, stages, recipe, run, adapter), *_use(base, recipe, adapter, name),
            *_origin(base, recipe, stages, out), *_settings(recipe, stages, found), *_weights(told),
            *figures.measured(recipe, run, found, adapter), *_limits(found, adapter),
        ]
    )  # fmt: skip


def _metrics(out: Path, run: dict) -> dict:
    """Every stage's metrics, and whether it was stopped: from the run's own file and its reports."""
    found = {name: stage["metrics"] | (stage.get("stopped") or {}) for name, stage in run["stages"].items()}
    reports = [p for name in ("merge", "evaluate") if (p := out / "reports" / f"{name}.json").is_file()]
    return found | {p.stem: record.metrics(p) for p in reports}


def _front(base: Base, stages: list[str], recipe: dict, adapter: bool, out: Path) -> str:
    """The YAML head. The hub refuses a base that is no name of its own, so a local one is named in the text alone.

    It states a licence only where that of the base is known and none of the data's forbids something or is unknown.
    """
    doubtful = base.licence == origins.UNKNOWN or origins.doubts(recipe, stages, out)
    head = {"base_model": base.hub, "base_model_relation": "adapter" if adapter else "finetune"} if base.hub else {}
    head |= {"license": None if doubtful else base.licence, "library_name": "peft" if adapter else "transformers"}
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
    at = recipe["model"]["revision"]
    pinned = f"revision={json.dumps(at)}, " if at and base.hub else ""
    lines.append(ADAPTER_USE.format(name=name, base=base.hub or "FOLDER/OF/THE/BASE", revision=pinned))
    lines.append(
        "It was trained on the base in NF4; how much its answers differ on a base in another number format was not "
        "measured.\n"
    )
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
        steps = f"; {plain(found[name]['steps'])} steps" if "steps" in found[name] else ""
        steps += f" of {plain(found[name]['of'])}: stopped early" if "of" in found[name] else ""
        lines.append(f"- **{name}**: {shape}; {settings}{steps}")
    return [*lines, ""]


def _weights(told: record.Record | None) -> list[str]:
    """What `merge.json` says of the merged file: from which adapters, onto what, how large."""
    if told is None:
        return []
    parts = [f"{code(one.name)} (sha256 {code(one.sha256[:12])})" for one in told.adapters]
    return [
        f"Merged from {', then '.join(parts)} onto the {plain(told.onto)} base (trained in {plain(told.trained_in)}), "
        f"saved as {plain(told.dtype)}: {told.parameters:,} parameters, {told.bytes / 1e6:,.0f} MB.\n"
    ]


def _limits(found: dict, adapter: bool) -> list[str]:
    n = figures.counted(found, adapter)
    rests = f"The figures above are of one run and one seed, on {n}; each holds for such questions only."
    return ["## Limits\n", LIMITS.format(figures=rests if n else "No figure on held-out rows was taken in this run.")]
