"""The run directory: the only thing that one stage hands to the next. Written atomically, verified, locked.

A stage works in a hidden folder beside its place and is renamed into it when all is written and its manifest (sizes
and sha256 of every file) stands. What has the final name is whole; what has not is never read. Lesson: 00_tour.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from hermes_nb.errors import FileProblem, RunProblem
from hermes_nb.runtime import machine, peak_gb, sha256

STACK = ("hermes_nb", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")
# fields of a recipe that change neither a weight nor a number
BEGUN = "begun.json"  # in a work folder: what was begun there
UNSEEN = ("looks", "looked_pairs")  # keys of a stage that change no weight either
COSMETIC = ("title", "overrides", "needs_gb", "report_to")


@dataclass(frozen=True)
class Run:
    """A finished stage."""

    path: Path

    @property
    def meta(self) -> dict:
        """`run.json`: versions, seed, device, dtype and its reason, seconds, peak memory, parent, metrics."""
        return read_json(self.path / "run.json")

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.path / "adapter"

    @property
    def stopped(self) -> str:
        """In words, where the stage was stopped before its last step; else nothing."""
        found = self.meta.get("stopped")
        return f"stopped after step {found['step']} of {found['of']}" if found else ""

    @property
    def metrics(self) -> dict:
        """The stage's results."""
        return self.meta["metrics"]


def read_json(path: Path) -> dict:
    """Read a JSON file; FileProblem says which is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileProblem(f"{path}: missing; run that stage first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileProblem(f"{path}: damaged; delete its folder and run that stage again.") from error


def read_yaml(path: Path) -> dict:
    """Read a YAML mapping; FileProblem says which is missing or damaged."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileProblem(f"{path}: missing; give a run directory that `run` has made.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileProblem(f"{path}: damaged; delete its folder and run again.") from error
    if not isinstance(data, dict):
        raise FileProblem(f"{path}: damaged; delete its folder and run again.")
    return data


def write_json(path: Path, data: dict) -> Path:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    return write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return path


def versions() -> dict:
    """Versions of what the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in STACK}


def facts(begun: float) -> dict:
    """What every stage records: seconds since `begun`, peak memory, machine, number format and why, versions."""
    here = machine()
    return {
        "seconds": round(time.perf_counter() - begun, 1), "peak_gb": round(peak_gb(), 2),
        "device": here.device, "chip": here.chip, "dtype": here.dtype, "dtype_reason": here.dtype_reason,
        "versions": versions(),
    }  # fmt: skip


def fingerprint(*parts) -> str:
    """Short digest of plain data: the same recipe gives the same one on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def recipe_key(recipe: dict, stage: str) -> str:
    """Digest of what stage `stage` depends on: its own part of the recipe and those before it."""
    later = {"format": ("sft", "dpo", "merge", "evaluate"), "sft": ("dpo", "merge", "evaluate"),
             "dpo": ("merge", "evaluate"), "merge": ("evaluate",)}.get(stage, ())  # fmt: skip
    kept = {k: v for k, v in recipe.items() if k not in (*COSMETIC, *later)}
    if kept.get("dpo"):
        kept["dpo"] = {k: v for k, v in kept["dpo"].items() if k not in UNSEEN}
    if stage == "format":
        kept |= {s: {k: recipe[s][k] for k in ("train", "held_out", "max_length")} for s in ("sft", "dpo") if recipe[s]}
    return fingerprint(stage, kept)


def file_digest(path: Path) -> str:
    """sha256 of a file. Raises FileProblem when it is missing."""
    if not path.is_file():
        raise FileProblem(f"{path}: missing; run that stage first, or name its folder.")
    return sha256(path)


def seal(folder: Path) -> Path:
    """Write `manifest.json` with size and sha256 of every file below `folder`; returns its path."""
    files = {}
    own = ("manifest.json", BEGUN)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in own):
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    return write_json(folder / "manifest.json", {"files": files})


def verify(folder: Path) -> None:
    """Compare a folder with its manifest. Raises FileProblem naming the first missing or changed file."""
    for name, entry in read_json(folder / "manifest.json")["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise FileProblem(f"{path}: missing or of the wrong size; delete {folder} and run that stage again.")
        if file_digest(path) != entry["sha256"]:
            raise FileProblem(f"{path}: changed since it was written; delete {folder} and run that stage again.")


def finished(out: Path, stage: str, key: str) -> Run | None:
    """The finished stage in `out`, verified; None where there is none, or one that was stopped before its end.

    RunProblem when it is of another recipe.
    """
    folder = Path(out) / stage
    if not folder.exists():
        return None
    run = Run(folder)
    if run.meta.get("key") != key:
        raise RunProblem(
            f"{folder}: made by another recipe, scale or setting ({run.meta.get('recipe', 'unknown')}); "
            f"choose another --out, or delete this folder to make it anew."
        )
    verify(folder)
    return None if run.meta.get("stopped") else run


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Hold the run directory; RunProblem when another process does."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise RunProblem(f"{out}: is a file; a run needs a folder.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield out
    except Timeout as error:
        raise RunProblem(
            f"{out}: another process is working in this run; wait for it, or choose another --out."
        ) from error


def _left(work: Path, key: str) -> bool:
    """Whether a work folder was begun under `key` and holds a sealed checkpoint."""
    try:
        begun = read_json(work / BEGUN)
    except FileProblem:
        return False
    return begun.get("key") == key and any(work.glob("checkpoints/*/manifest.json"))


def _reopen(folder: Path, work: Path, key: str) -> None:
    """Make a stage that was stopped before its end the work folder again; a kill leaves one or the other."""
    meta = read_json(folder / "run.json")
    if meta.get("key") != key or not meta.get("stopped"):
        raise RunProblem(
            f"{folder}: made meanwhile, by another process or recipe; call again, or choose another --out."
        )
    write_json(folder / BEGUN, {"key": key})
    shutil.rmtree(work, ignore_errors=True)
    os.replace(folder, work)
    for name in ("run.json", "manifest.json"):
        (work / name).unlink()
    shutil.rmtree(work / "adapter", ignore_errors=True)


@contextmanager
def stage(out: Path, name: str, key: str, **meta) -> Iterator[Path]:
    """Work folder of a stage; on success it gets `run.json`, a manifest and its final name `out/name`.

    `meta` goes into `run.json`; the body may add more by writing `stage.json` into the folder. On an error nothing
    with the final name is left. A work folder that an error or a kill left behind is found again as it was where it
    holds sealed checkpoints of the same `key`, so that the body can go on from there; else it is emptied. So is a stage
    that has the final name: it was stopped before its end (`finished` says so).
    """
    with locked(out) as out:
        work = out / f".{name}.work"
        if (out / name / "run.json").is_file():
            _reopen(out / name, work, key)
        if not _left(work, key):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            write_json(work / BEGUN, {"key": key})
        begun = time.perf_counter()
        try:
            yield work
        except BaseException:
            if not _left(work, key):
                shutil.rmtree(work, ignore_errors=True)
            raise
        extra = read_json(work / "stage.json") if (work / "stage.json").exists() else {}
        (work / "stage.json").unlink(missing_ok=True)
        write_json(work / "run.json", {"stage": name, "key": key, **meta, **extra, **facts(begun)})
        seal(work)
        os.replace(work, out / name)
        (out / name / BEGUN).unlink()  # until here a kill leaves a work folder that the next call finds again
