"""The very folder that would be published, put together beside the model: its files, its card, its name.

Lesson: 04_merge.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import runs
from hermes_nb.errors import FileProblem
from hermes_nb.publish import origins, scan
from hermes_nb.publish.card import card
from hermes_nb.runtime import sha256

LINKED = 10_000_000  # bytes above which a file is linked; a smaller one is copied, so that it may be edited
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Source:
    """What is to be published: a folder, its kind, the run around it (if any), its base and its last stage."""

    folder: Path
    adapter: bool
    run: Path | None
    base: origins.Base
    last: str  # sft | dpo, or nothing where that is not known

    @property
    def name(self) -> str:
        """The repo's own name: `MODEL-STAGE` for a merged model, `MODEL-STAGE-lora` for an adapter."""
        return origins.repo_name(self.base, self.last, self.adapter)


def exported(run: Path | str, what: str = "merged") -> Path:
    """The folder of a run that is published: its `merged` model, or with `adapter` the adapter of its last stage.

    Raises FileProblem naming the stage to run first.
    """
    run = Path(run)
    runs.read_yaml(run / "recipe.yaml")
    places = [run / "merged"] if what == "merged" else [run / s / "adapter" for s in ("dpo", "sft")]
    for place in places:
        if place.is_dir():
            return place
    stage = "merge" if what == "merged" else "dpo"
    raise FileProblem(f"{places[0]}: not there yet; run that stage first (--stages {stage}).")


def source(folder: Path | str, run: Path | str | None = None) -> Source:
    """Look at `folder`: a merged model or an adapter, and the run it is of (`run`, or the nearest one around it).

    Raises FileProblem when it is neither, or when there is no run and no README.md to go with it.
    """
    folder = Path(folder)
    scan.files(folder)
    adapter = all((folder / name).is_file() for name in ADAPTER)
    if not adapter and not ((folder / "config.json").is_file() and any(folder.glob(f"*{scan.WEIGHTS}"))):
        raise FileProblem(
            f"{folder}: neither a merged model (config.json and safetensors) nor an adapter ({' and '.join(ADAPTER)})."
        )
    run = Path(run) if run else _around(folder)
    if run is None and not (folder / scan.CARD).is_file():
        raise FileProblem(
            f"{folder}: no run around it to write a model card from; name the run, or put a {scan.CARD} there."
        )
    named = _named_base(folder, adapter)
    if run:
        named = str(runs.read_yaml(run / "recipe.yaml")["model"]["base"])
    return Source(folder, adapter, run, origins.base(named or folder.name), _last(folder, adapter, run))


def stage(what: Source, into: Path, name: str) -> list[str]:
    """Lay the files of `what` into the empty folder `into`, the card too; returns notes for whoever publishes it.

    Large files are hard links where the disk allows it, else copies. A README.md that stands in the folder is taken as
    it is; else the card is written from the run, with `name` in its example. An adapter of the built-in model is given
    its base's name on the hub. What may not leave (`scan.findings` names it) is not laid there.
    """
    for file, path in scan.files(what.folder):
        if scan.unwanted(file) or scan.leads_out(path, what.folder):
            continue
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        _lay(path, into / file)
    notes = _mend(into, what) if what.adapter else []
    if (into / scan.CARD).is_file():
        notes.append(f"{scan.CARD}: as it stands in {what.folder}; delete it there to have it written from the run.")
    else:
        text = card(what.run, adapter=what.adapter, last=what.last or None, name=name, folder=what.folder)
        (into / scan.CARD).write_text(text, encoding="utf-8")
    return notes + _licences(what)


def _licences(what: Source) -> list[str]:
    """Licences that somebody must look at: those that are not known, and those that forbid something."""
    notes = []
    if what.base.licence == origins.UNKNOWN:
        notes.append(f"the licence of {what.base.name} is not known to us; look it up before you publish.")
    recipe = runs.read_yaml(what.run / "recipe.yaml") if what.run else {}
    stages = [s for s in ("sft", "dpo") if recipe.get(s) and (s == "sft" or what.last != "sft")]
    sets = {r["name"]: r["licence"] for r in origins.data(recipe, stages, what.run)} if what.run else {}
    doubtful = {k: v for k, v in sets.items() if v.startswith(("none", "cc-by-nc")) or v == origins.UNKNOWN}
    return notes + [f"the licence of the data set {name}: {licence}." for name, licence in doubtful.items()]


def _lay(path: Path, place: Path) -> None:
    if path.stat().st_size > LINKED:
        try:
            os.link(path.resolve(), place)
            return
        except OSError:  # another disk, or one without hard links
            pass
    shutil.copyfile(path, place)


def _mend(into: Path, what: Source) -> list[str]:
    """Name the base of an adapter so that others find it; a note where that cannot be done."""
    if what.base.hub is None:
        return [
            f"adapter_config.json names its base {what.base.name!r}, which is no name on the hub: nobody else can load "
            f"this adapter. Publish the merged model, or put the base's OWNER/NAME there."
        ]
    if what.base.hub != origins.BUILTIN_HUB:
        return []
    file = into / ADAPTER[0]
    config = runs.read_json(file)
    # its revision is that of the GGUF file, which the hub does not know
    config |= {"base_model_name_or_path": what.base.hub, "revision": None}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return [f"adapter_config.json names the base {what.base.hub}; {what.base.note}."]


def _around(folder: Path) -> Path | None:
    """The nearest folder above that is a run."""
    return next((p for p in folder.absolute().parents if (p / "recipe.yaml").is_file()), None)


def _named_base(folder: Path, adapter: bool) -> str:
    """The base that the folder itself names, if it does."""
    file = folder / (ADAPTER[0] if adapter else "merge.json")
    told = runs.read_json(file) if file.is_file() else {}
    return str(told.get("base_model_name_or_path" if adapter else "base") or "")


def _last(folder: Path, adapter: bool, run: Path | None) -> str:
    """The last stage inside: an adapter's own; of a merged model that of the last adapter in its `merge.json`.

    Without that file it is the stage that the pipeline merges: the last one that left an adapter, else the recipe's.
    """
    if adapter:
        stage = folder.absolute().parent.name
        return stage if stage in ("sft", "dpo") else ""
    merged = runs.read_json(folder / "merge.json")["adapters"] if (folder / "merge.json").is_file() else []
    weights = {s: run / s / "adapter" / ADAPTER[1] for s in ("dpo", "sft")} if run else {}
    there = {s: file for s, file in weights.items() if file.is_file()}
    if merged:
        same = next((s for s, file in there.items() if sha256(file) == merged[-1]["sha256"]), "")
        return same or (merged[-1]["name"] if merged[-1]["name"] in ("sft", "dpo") else "")
    recipe = runs.read_yaml(run / "recipe.yaml") if run else {}
    return next(iter(there), "") or next((s for s in ("dpo", "sft") if recipe.get(s)), "")
