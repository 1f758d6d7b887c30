"""What a merged folder's `merge.json` says, and what a run can say of it: its last stage, its figures.

Lesson: 04_merge.
"""

from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from hermes_nb import recipes, runs
from hermes_nb.errors import FileProblem
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.publish import origins

FILE = "merge.json"
STAGES = ("sft", "dpo")


@dataclass(frozen=True)
class Adapter:
    """An adapter that was merged: its name, the sha256 of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """How a folder was merged; the last of `adapters` is the one that was trained last."""

    base: str
    onto: str
    dtype: str
    trained_in: str
    parameters: int
    bytes: int
    adapters: Annotated[tuple[Adapter, ...], Field(min_length=1)]


def read(folder: Path) -> Record | None:
    """The `merge.json` in `folder`; None where there is none. Raises FileProblem when it is damaged."""
    if not (folder / FILE).is_file():
        return None
    try:
        return pydantic.TypeAdapter(Record).validate_python(runs.read_json(folder / FILE))
    except pydantic.ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"]) or "all of it"
        raise FileProblem(f"{folder / FILE}: damaged ({wrong}); merge the model again.") from error


def report(run: Path) -> dict:
    """The figures in a run's `reports/merge.json`; empty where there are none. Raises FileProblem when damaged."""
    return metrics(run / "reports" / FILE) if (run / "reports" / FILE).is_file() else {}


def metrics(path: Path) -> dict:
    """What a report has measured. Raises FileProblem when it is damaged."""
    found = runs.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict):
        raise FileProblem(f"{path}: holds no metrics; delete it and run that stage again.")
    return found["metrics"]


def figures(told: Record | None, measured: dict) -> dict:
    """Of the figures `measured` in a run those that are about the merge `told`; empty where none are.

    A report counts when it measured the same adapter, and then by the candidate that was merged the same way. Without
    a `merge.json` nothing can be compared, and the report is taken as it is.
    """
    if told is None or not measured:
        return measured
    row = next((c for c in (measured.get("candidates") or {}).values() if _way(c) == (told.onto, told.dtype)), None)
    if measured.get("adapter") != told.adapters[-1].sha256 or row is None:
        return {}
    why = {} if _way(measured) == _way(row) else {"reason": None}
    return measured | row | why


def _way(one: dict) -> tuple:
    return one.get("onto"), one.get("dtype")


def last_stage(folder: Path, adapter: bool, run: Path | None) -> str:
    """The last stage inside (`sft` or `dpo`), by the sha256 of the adapter; nothing where no run is there to ask.

    An adapter that the run did not train is taken by its folder's name if the run's report has measured it. A merge
    without a `merge.json` is that of the run's last adapter, else of the recipe's last stage.
    Raises FileProblem when the folder is not of that run, by its base or by its adapter.
    """
    told, folder = None if adapter else read(folder), folder.absolute()
    name = told.adapters[-1].name if told else folder.parent.name if folder.name == "adapter" else folder.name
    if run is None:
        return name if name in STAGES else ""
    recipe = recipes.read(run / "recipe.yaml")
    mine = {s: run / s / "adapter" / WEIGHTS for s in STAGES if (run / s / "adapter" / WEIGHTS).is_file()}
    if told is None and not adapter:
        return ([*mine] or [s for s in STAGES if recipe.to_dict()[s]])[-1]
    if told and not _same_base(told.base, recipe.model.base):
        raise FileProblem(
            f"{folder / FILE}: merged into {told.base!r}, but the recipe in {run} names another base; name the run "
            f"that this merge is of."
        )
    digest = told.adapters[-1].sha256 if told else runs.file_digest(folder / WEIGHTS)
    stage = next((s for s, file in mine.items() if runs.file_digest(file) == digest), "")
    if not stage and name in STAGES and report(run).get("adapter") == digest:
        stage = name
    if not stage:
        raise FileProblem(
            f"{folder}: its adapter (sha256 {digest[:12]}) is none of those in {run}, so its stage is not known; name "
            f"the run that trained it."
        )
    return stage


def _same_base(recorded: str, named: str) -> bool:
    """Whether a `merge.json` and a recipe name one base; of a folder the record holds the last part alone."""
    return recorded == origins.last(named) or origins.base(recorded).name == origins.base(named).name
