"""What must hold for every notebook before it is run. Run alone: python -m pytest tests/test_notebooks.py"""

import ast
import base64
import builtins
import json
import re
from pathlib import Path

import nbformat
import pytest

from hermes_nb import course, stamp

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


def tags(cell):
    return cell.metadata.get("tags", [])


def test_the_package_does_the_work(notebook):
    """No long cell, and no def or class but one miniature a lesson and what an exercise asks for."""
    miniatures = [cell for cell in code(notebook) if "miniature" in tags(cell)]
    assert len(miniatures) <= 1
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert max(map(len, cell.source.splitlines())) <= 120, cell.source
        defined = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        assert not defined or {"miniature", "exercise"} & set(tags(cell)), cell.source
        assert len(defined) <= 1


def test_the_setup_cell_is_the_same_everywhere(notebook):
    """One place to mend: `make stamp` writes it."""
    assert code(notebook)[0].source == stamp.setup_cell()


def test_names_are_made_before_they_are_used(notebook):
    """A notebook that runs only in the order in which it was written is broken: every name has a cell above it."""
    known = set(dir(builtins))
    for cell in code(notebook):
        tree = ast.parse(cell.source)
        made = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        made |= {a.asname or a.name.split(".")[0] for n in ast.walk(tree)
                 if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}  # fmt: skip
        made |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        made |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert used <= known | made, (used - known - made, cell.source)
        known |= made


def test_a_prediction_comes_before_what_it_is_about(notebook):
    """Who has guessed looks differently."""
    prose = [i for i, c in enumerate(notebook.cells) if c.cell_type == "markdown" and "*Write down:" in c.source]
    assert prose
    for i in prose:
        assert notebook.cells[i + 1].cell_type == "code"


def test_links_lead_somewhere(notebook):
    """To a notebook, a file or a section that is there."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
                if not target.startswith(("http", "#")):
                    assert (FOLDER / target.split("#")[0]).exists(), target


def test_committed_outputs_are_as_fresh_as_the_code(notebook):
    """Outputs of other code than what stands beside them are worse than none: run make notebooks."""
    assert notebook.metadata["hermes_nb"]["code"] == course.digest(notebook)
    assert all(
        cell.outputs or cell.source.startswith("from ") or "miniature" in tags(cell)
        for cell in code(notebook)
        if not cell.source.endswith(";")
    )
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_outputs_hold_no_error_no_warning_and_no_path(notebook):
    """What a reader sees without running must be what they would see."""
    text = json.dumps([cell.outputs for cell in code(notebook)])
    for word in ("Traceback", "Warning", "/home/", "/root/", "/tmp/", "/content/", str(FOLDER.parent)):
        assert word not in text, word
    assert not re.search(r"\bhf_\w", text), "a token of the hub"


def test_pictures_are_small(notebook):
    """A page of heavy pictures does not load on a phone."""
    for cell in code(notebook):
        for output in cell.outputs:
            assert course.WIDGET not in output.get("data", {}), "run make notebooks"
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
        "### Exercise",
        "### What may go wrong here",
        "### Next",
    ):
        assert part in prose, part
    assert prose.count("<details>") >= 4  # three questions and a solution
    assert "TINY_" not in prose, "minutes and memory of a logged run are missing"
