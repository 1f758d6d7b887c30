"""The folder a merge works in: hidden beside its place, gone on with after a kill, renamed when it is whole.

A file there has its name only when it is written and on the disk, so what is found under a name is good and is kept.
Lesson: 04_merge.
"""

import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hermes_nb import runs
from hermes_nb.errors import FileProblem, ResourceProblem, RunProblem
from hermes_nb.merge import stored, sums
from hermes_nb.merge.plan import Plan
from hermes_nb.runtime import need_disk

RECORD = "merge.json"  # in the merged folder: how it was made
MARGIN = 50e6  # bytes beside the tensors: headers, tokenizer, configs

Watch = Callable[[int, int, str], None]  # bytes done, bytes in all, name of the tensor


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the place `out`. Raises RunProblem when another process merges into it, FileProblem where none can be."""
    lock = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            yield
            lock.unlink(missing_ok=True)
    except Timeout as error:
        raise RunProblem(f"{out}: another process is merging into it; wait for it, or name another folder.") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise FileProblem(f"{out}: no folder can be made there ({error.strerror}).") from error


def standing(out: Path, record: dict, plan: Plan) -> bool:
    """Whether `out` holds this very merge already. FileProblem when it holds anything else."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return False
    made = runs.read_json(out / RECORD) if out.is_dir() and (out / RECORD).is_file() else {}
    # other versions have made another folder, and one that is as good
    same = {**made, "versions": None} == {**record, "versions": None}
    if not same or any(_size(out / name) != stored.file_size(plan.entries(name)) for name in plan.files):
        raise FileProblem(f"{out}: exists already; delete it, or name another folder for the merged model.")
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


@contextmanager
def folder(out: Path, record: dict, plan: Plan) -> Iterator[Path]:
    """The work folder of the merge into `out`: as an earlier call of the same merge left it, else empty.

    When the body ends it gets the name `out`. Call it within `locked`. Raises ResourceProblem when the disk is too
    small.
    """
    work = out.with_name(f".{out.name}.work")
    work.mkdir(exist_ok=True)
    _begin(work, record)
    need_disk(out.parent, (_left(work, plan) + MARGIN) / 1e9)
    try:
        yield work
    except Exception as error:
        # tokenizers 0.23 raises a bare Exception with the system's words
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error)
        raise _full(out, work, plan) if full else error from error
    if out.exists():
        out.rmdir()  # empty: `standing` has looked
    os.replace(work, out)


def _left(work: Path, plan: Plan) -> int:
    """Bytes of the files that are not written yet."""
    return sum(stored.file_size(plan.entries(name)) for name in plan.files if not (work / name).is_file())


def _begin(work: Path, record: dict) -> None:
    """Keep the files that an earlier call of the same merge has finished; of any other merge nothing."""
    try:
        same = runs.read_json(work / RECORD) == record
    except FileProblem:
        same = False
    for path in work.iterdir():
        finished = same and path.suffix in (".safetensors", ".json") and not path.name.startswith(".")
        if not finished:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not same:
        runs.write_json(work / RECORD, record)


def _full(out: Path, work: Path, plan: Plan) -> ResourceProblem:
    needed, free = _left(work, plan), shutil.disk_usage(work).free
    return ResourceProblem(
        f"{out}: the disk is full; {needed / 1e6:,.1f} MB are still to be written and {free / 1e6:,.1f} MB are free. "
        f"Free some and call again: it goes on where it stopped."
    )


def write_weights(work: Path, plan: Plan, device: str, watch: Watch) -> None:
    """Write the files of `plan` that are not in `work` yet, one tensor after another, and the index where there are
    several. The next pieces are summed while one is written."""
    left = {name: outputs for name, outputs in plan.files.items() if not (work / name).is_file()}
    done = plan.bytes - sum(output.entry.size for outputs in left.values() for output in outputs.values())
    with sums.threads(1) as most:  # small pieces that wait for memory: threads would wait for one another
        every = ahead(part for outputs in left.values() for part in _pieces(outputs, plan, device, most))
        with closing(every) as parts:
            for name, outputs in left.items():
                size = sum(output.entry.size for output in outputs.values())
                stored.write(work / name, plan.entries(name), _told(parts, size, done, plan.bytes, watch))
                done += size
    if len(plan.files) > 1:
        index = {
            "metadata": {"total_parameters": plan.parameters, "total_size": plan.bytes},
            "weight_map": {key: name for name, outputs in plan.files.items() for key in outputs},
        }
        runs.write_json(work / stored.INDEX, index)


def ahead(parts: Iterator, count: int = 8) -> Iterator:
    """The same parts, made in a thread of their own, up to `count` of them before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, parts, end) for _ in range(count))
        try:
            while (part := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, parts, end))
                yield part
        finally:
            pool.shutdown(cancel_futures=True)


def _pieces(outputs: dict, plan: Plan, device: str, most: int) -> Iterator[tuple]:
    """(name, numbers) for every piece of every output of one file."""
    for name, output in outputs.items():
        for part in sums.values(output, plan, device, most):
            yield name, part


def _told(parts: Iterator, size: int, done: int, total: int, watch: Watch) -> Iterator:
    """The next `size` bytes of `parts`; `watch` is told after each tensor."""
    stop, last = done + size, None
    while done < stop:
        name, part = next(parts, (None, None))
        if part is None:
            return  # `stored.write` finds the file too short
        if last not in (None, name):
            watch(done, total, last)
        yield part
        done, last = done + part.nbytes, name
    watch(done, total, last)
