"""The place of the chosen candidate: looked at before anything is measured, taken by renaming. Lesson: 04_merge."""

import os
import shutil
from pathlib import Path

from hermes_nb.errors import FileProblem
from hermes_nb.merge.work import RECORD


def check(keep: Path, run: Path, base: str) -> None:
    """Make sure that the chosen candidate of `run` can be left in folder `keep`, and put right what a kill left there.

    Raises FileProblem when `keep` holds something that is no merged model of ours, is the base itself, or lies on
    another disk than the run.
    """
    old = _old(keep)
    if old.is_dir() and not keep.exists():
        old.rename(keep)  # a kill came between the two renames of `take`
    shutil.rmtree(old, ignore_errors=True)
    if keep.exists() and not (keep / RECORD).is_file() and not (keep.is_dir() and not any(keep.iterdir())):
        raise FileProblem(f"{keep}: exists already and is no merged model; delete it, or name another folder to keep.")
    if Path(base).is_dir() and keep.resolve() == Path(base).resolve():
        raise FileProblem(f"{keep}: is the base of this merge; name another folder to keep the merged model in.")
    try:
        keep.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(f"{keep}: no folder can be made there ({error.strerror}); name another one.") from error
    if _disk(keep.parent) != _disk(run):
        raise FileProblem(f"{keep}: on another disk than {run}; keep it as {run / keep.name}, and move it afterwards.")


def take(candidate: Path, keep: Path) -> None:
    """Give folder `candidate` the name `keep`; what stood there is deleted when the new one stands."""
    old = _old(keep)
    if keep.exists():
        keep.rename(old)
    candidate.rename(keep)
    shutil.rmtree(old, ignore_errors=True)


def _old(keep: Path) -> Path:
    return keep.with_name(f".{keep.name}.old")


def _disk(folder: Path) -> int:
    return os.stat(folder).st_dev
