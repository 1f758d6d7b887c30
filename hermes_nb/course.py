"""Runs the notebooks top to bottom: a progress line each, executed notebooks with pictures and HTML, then a table.

`python -m hermes_nb course` (or `make course`) leaves them in `runs/course`; with `--in-place` (`make notebooks`) their
outputs go into `notebooks/`, normalised so that a host renders them and a diff stays small.
"""

import base64
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from hermes_nb.errors import FileProblem

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET = "application/vnd.jupyter.widget-view+json"
SOLUTION = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
KEPT_METADATA = ("kernelspec", "language_info", "accelerator", "colab")


def find(names: list[str], folder: Path = FOLDER) -> list[Path]:
    """Notebooks by name, or all of the folder in order. Raises FileProblem for an unknown one."""
    known = {p.stem: p for p in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    wrong = [n for n in names if n.removesuffix(".ipynb") not in known]
    if wrong or not known:
        raise FileProblem(f"no notebook {(wrong or ['*'])[0]!r} in {folder}; there are {', '.join(known) or 'none'}.")
    return [known[n.removesuffix(".ipynb")] for n in names] if names else list(known.values())


def digest(notebook) -> str:
    """Digest of the code cells but the set-up, which `stamp` writes: are the committed outputs as fresh as the code?"""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]
    return hashlib.sha256("\x00".join(code).encode()).hexdigest()[:16]


def normalise(notebook):
    """Keep what a reader needs: no widget state, no times, no stderr, counted cells, and the digest of the code."""
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in KEPT_METADATA}
    notebook.metadata["hermes_nb"] = {"code": digest(notebook)}
    count = 0
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                output.pop("transient", None)
                if "data" in output:  # a live widget means nothing without its kernel; its picture stays
                    output.data.pop(WIDGET, None)
                if "metadata" in output:
                    output["metadata"] = {}
                if "execution_count" in output:
                    output["execution_count"] = count
    return notebook


def exercises(notebook) -> list[tuple[object, str]]:
    """Exercise cells of a notebook, each with the code of the folded solution that follows it."""
    out, cells = [], notebook.cells
    for number, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            after = (c for c in cells[number + 1 :] if "solution" in c.metadata.get("tags", []))
            out.append((cell, SOLUTION.search(next(after).source)[1]))
    return out


def solve(notebook) -> list:
    """Put every solution into its exercise cell (`HERMES_SOLUTIONS=1`); returns these cells."""
    return [_solved(cell, code) for cell, code in exercises(notebook)]


def _solved(cell, code: str):
    cell.source = code
    return cell


@contextmanager
def peak_memory(pid):
    """Measure the peak resident memory (GB) of process `pid()`, sampled twice a second; yields a list of one number."""
    import psutil

    peak, stop = [0.0], threading.Event()

    def sample():
        while not stop.wait(0.5):
            try:
                peak[0] = max(peak[0], psutil.Process(pid()).memory_info().rss / 1e9)
            except (psutil.NoSuchProcess, TypeError):  # before the kernel starts, and after it ends
                continue

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def execute(path: Path, environment: dict, say=print) -> tuple[object, dict]:
    """Run one notebook in `environment`; returns it with its outputs, and `{seconds, peak_gb, result, error}`.

    `error` is None when every cell ran.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    solutions = solve(notebook) if environment.get("HERMES_SOLUTIONS") == "1" else []
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    done = [0]

    def progress(cell, cell_index):
        if cell.cell_type == "code":
            done[0] += 1
            say(f"\r{path.stem}: cell {done[0]} of {total}", end="", file=sys.stderr, flush=True)

    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=progress,
    )  # fmt: skip
    begun, error = time.perf_counter(), None
    with peak_memory(lambda: client.km.provisioner.pid if client.km and client.km.provisioner else None) as peak:
        try:
            client.execute(env=environment)
        except CellExecutionError as problem:
            source = notebook.cells[_failed(notebook)].source
            error = (
                f"{path.name}, code cell {done[0]} ({source.splitlines()[0][:60]}): {problem.ename}: {problem.evalue}"
            )
        except DeadKernelError:
            error = f"{path.name}, code cell {done[0]}: the kernel died, most likely for want of memory"
    say("", file=sys.stderr)
    error = error or _unsolved(path, solutions)
    return notebook, {
        "seconds": time.perf_counter() - begun, "peak_gb": peak[0], "result": result(notebook),
        "error": ANSI.sub("", error) if error else None,
    }  # fmt: skip


def _unsolved(path: Path, solutions: list) -> str | None:
    """The first of the solution cells that did not print `solved:`."""
    for cell in solutions:
        if "solved:" not in "".join(o.get("text", "") for o in cell.outputs):
            return f"{path.name}: the solution of an exercise does not solve it ({cell.source.splitlines()[0][:60]})"
    return None


def _failed(notebook) -> int:
    """Index of the cell that holds the error."""
    return next(
        i for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and any(o.output_type == "error" for o in cell.outputs)
    )  # fmt: skip


def result(notebook) -> str:
    """The notebook's own last line that begins with `result:`."""
    lines = [
        line
        for cell in notebook.cells if cell.cell_type == "code"
        for output in cell.outputs if output.output_type == "stream"
        for line in output.text.splitlines() if line.startswith("result:")
    ]  # fmt: skip
    return lines[-1].removeprefix("result:").strip() if lines else ""


def write(notebook, name: str, out: Path) -> None:
    """Write the executed notebook, its HTML and its pictures into `out`."""
    import nbformat
    from nbconvert import HTMLExporter

    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / f"{name}.ipynb")
    (out / f"{name}.html").write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells if cell.cell_type == "code"
        for output in cell.outputs if "image/png" in output.get("data", {})
    ]  # fmt: skip
    for number, picture in enumerate(pictures, 1):
        (out / f"{name}_{number:02d}.png").write_bytes(base64.b64decode(picture))


def run(names: list[str], out: Path, in_place: bool = False, say=print) -> int:
    """Run notebooks one after the other into `out`; returns 0, or 1 at the first cell that fails.

    They start from nothing: their runs go into `out/notebook_runs`, which is emptied first. The scale is `tiny` (the
    built-in model) unless HERMES_SCALE says otherwise.
    """
    import nbformat

    paths = find(names)
    if in_place and os.environ.get("HERMES_SOLUTIONS") == "1":
        raise FileProblem("HERMES_SOLUTIONS=1 would write the solutions into the notebooks; unset it for --in-place.")
    work = out / "notebook_runs"
    shutil.rmtree(work, ignore_errors=True)
    environment = {"HERMES_SCALE": "tiny", **os.environ, "HERMES_RUNS": str(work.resolve())}
    rows = []
    for number, path in enumerate(paths, 1):
        say(f"[{number}/{len(paths)}] {path.stem} ...", flush=True)
        notebook, facts = execute(path, environment, say)
        write(notebook, path.stem, out)
        if facts["error"]:
            say(f"FAILED {facts['error']}")
            return 1
        if in_place:
            nbformat.write(normalise(notebook), path)
        rows.append((path.stem, facts))
        say(f"[{number}/{len(paths)}] {path.stem} done in {facts['seconds'] / 60:.1f} min", flush=True)
    say(table(rows))
    say(f"Executed notebooks, HTML and pictures: {out}")
    return 0


def table(rows: list[tuple[str, dict]]) -> str:
    """Minutes, peak memory and result of each notebook."""
    lines = [f"{'notebook':24}{'minutes':>8}{'peak GB':>9}  result"]
    lines += [f"{n:24}{f['seconds'] / 60:8.1f}{f['peak_gb']:9.1f}  {f['result']}" for n, f in rows]
    total = sum(f["seconds"] for _, f in rows) / 60
    return "\n".join([*lines, f"{'all':24}{total:8.1f}{max(f['peak_gb'] for _, f in rows):9.1f}"])
