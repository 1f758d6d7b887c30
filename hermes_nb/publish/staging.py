"""The very folder that would be published, put together beside the model: its files, its card, its name.

Lesson: 04_merge.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import recipes, runs
from hermes_nb.errors import FileProblem
from hermes_nb.publish import origins, record, scan
from hermes_nb.publish.card import card
from hermes_nb.publish.layout import read_json

LINKED = 10_000_000  # bytes above which a file is linked; a smaller one is copied, so that it may be edited
ADAPTER = ("adapter_config.json", record.WEIGHTS)


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
    recipes.read(run / "recipe.yaml")
    places = [run / "merged"] if what == "merged" else [run / s / "adapter" for s in ("dpo", "sft")]
    for place in places:
        if place.is_dir():
            return place
    stage = "merge" if what == "merged" else "dpo"
    raise FileProblem(f"{places[0]}: not there yet; run that stage first (--stages {stage}).")


def source(folder: Path | str, run: Path | str | None = None) -> Source:
    """Look at `folder`: a merged model or an adapter, and the run it is of (`run`, or the nearest one around it).

    Raises FileProblem when it is neither, when it is not of that run, or when there is neither run nor README.md.
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
        named = recipes.read(run / "recipe.yaml").model.base
    last = record.last_stage(folder, adapter, run)
    return Source(folder, adapter, run, origins.base(named or folder.name), last)


def stage(what: Source, into: Path, name: str) -> list[str]:
    """Lay the files of `what` into the empty folder `into`, the card too; returns notes for whoever publishes it.

    Large files are hard links where the disk allows it, else copies. A README.md that stands in the folder is taken as
    it is; else the card is written from the run, with `name` in its example. A config that names a model by its path
    keeps the last part; an adapter of the built-in model is given its base's name on the hub. What may not leave
    (`scan.unfit` names it) is not laid there.
    """
    for file, path in scan.files(what.folder):
        if scan.unwanted(file) or scan.leads_out(path, what.folder):
            continue
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        _lay(path, into / file)
    for file in ("config.json", "tokenizer_config.json", ADAPTER[0]):
        _without_path(into / file)
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
    if what.run:
        recipe = recipes.read(what.run / "recipe.yaml").to_dict()
        doubts = origins.doubts(recipe, origins.stages(recipe, what.last), what.run)
        notes += [f"the licence of the data set {name}: {licence}." for name, licence in doubts.items()]
    return notes


def _lay(path: Path, place: Path) -> None:
    if path.stat().st_size > LINKED:
        try:
            os.link(path.resolve(), place)
            return
        except OSError:  # another disk, or one without hard links
            pass
    shutil.copyfile(path, place)


def _without_path(file: Path) -> None:
    """Where a JSON file names a model by its path, keep the last part; a damaged file is left to the scan."""
    try:
        told = read_json(file)
    except FileProblem:
        return
    paths = {k: v for k in scan.NAMED if isinstance(v := told.get(k), str) and _path(v)}
    if paths:
        runs.write_json(file, told | {k: origins.last(v) for k, v in paths.items()})


def _path(name: str) -> bool:
    return bool(name) and (Path(name).is_dir() or not scan.HUB_NAME.fullmatch(name))


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
    if adapter:
        return str(read_json(folder / ADAPTER[0]).get("base_model_name_or_path") or "")
    told = record.read(folder)
    return told.base if told else ""
