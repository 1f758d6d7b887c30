"""What must hold for every notebook before it is run. Run alone: python -m pytest tests/test_notebooks.py"""

import ast
import base64
import json
from pathlib import Path

import nbformat
import pytest

from hermes_nb import course

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_a_valid_notebook(notebook, path):
    """A host that cannot read it shows nothing."""
    nbformat.validate(notebook)
    assert path.stat().st_size < 400_000
    assert set(notebook.metadata) <= {*course.KEPT_METADATA, "hermes_nb"}, "run make notebooks"


def test_the_package_does_the_work(notebook):
    """No def or class, no long cell: the reader sees steps, not machinery."""
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef)), cell.source


def test_the_setup_cell_is_the_same_everywhere(notebook):
    """One place to mend; no restart, no login, nothing of torch, numpy or Jupyter touched."""
    first = code(notebook)[0].source
    assert first == code(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source
    assert len(first.splitlines()) <= 12
    for word in ("login", "kill", "exit", "torch==", "numpy", "ipywidgets"):
        assert word not in first.replace("torchao", "")


def test_committed_outputs_are_as_fresh_as_the_code(notebook):
    """Outputs of other code than what stands beside them are worse than none: run make notebooks."""
    assert notebook.metadata["hermes_nb"]["code"] == course.digest(notebook)
    assert all(
        cell.outputs or cell.source.startswith("from ") for cell in code(notebook) if not cell.source.endswith(";")
    )
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_outputs_hold_no_error_no_warning_and_no_path(notebook):
    """What a reader sees without running must be what they would see."""
    text = json.dumps([cell.outputs for cell in code(notebook)])
    for word in ("Traceback", "Warning", "/home/", "/root/", "/tmp/", "hf_"):
        assert word not in text, word


def test_pictures_are_small(notebook):
    """A page of heavy pictures does not load on a phone."""
    for cell in code(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(base64.b64decode(output.data["image/png"])) < 80_000


def test_head_and_foot_are_there(notebook):
    """Objectives on top; recap, three questions and remedies at the end."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in (
        "- [ ]",
        "**You need**",
        "**You leave with**",
        "## Recap",
        "### Questions",
        "### What may go wrong here",
    ):
        assert part in prose, part
    assert prose.count("<details>") >= 3
