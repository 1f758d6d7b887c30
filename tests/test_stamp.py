"""Run alone: python -m pytest tests/test_stamp.py"""

import ast

import nbformat
import pytest

from hermes_nb import stamp
from hermes_nb.errors import FileProblem

OTHER = """
[project.urls]
Repository = "https://github.com/someone/fork"
[tool.hermes_nb]
ref = "v9.9"
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one notebook and a README that name an old address."""
    (tmp_path / "pyproject.toml").write_text(OTHER)
    (tmp_path / "notebooks").mkdir()
    old = "[![Open in Colab](x.svg)](https://colab.research.google.com/github/a/b/blob/c/notebooks/00_a.ipynb)"
    cells = [nbformat.v4.new_markdown_cell(f"# A\n\n{old}"), nbformat.v4.new_code_cell("old setup")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "00_a.ipynb")
    (tmp_path / "README.md").write_text(f"{old}\n```\ngit clone https://github.com/a/b && cd b\n```\n")
    return tmp_path


def test_one_change_of_address_reaches_badges_setup_cells_and_readme(checkout):
    """A fork, or a release with its tag, must not send people to another code than the one they read."""
    assert stamp.stamp(checkout) == ["00_a.ipynb", "README.md"]
    made = nbformat.read(checkout / "notebooks" / "00_a.ipynb", as_version=4)
    assert "github/someone/fork/blob/v9.9/notebooks/00_a.ipynb" in made.cells[0].source
    assert "git+https://github.com/someone/fork@v9.9" in made.cells[1].source
    readme = (checkout / "README.md").read_text()
    assert "git clone https://github.com/someone/fork && cd fork" in readme
    assert "someone/fork/blob/v9.9" in readme
    assert stamp.stamp(checkout) == []


def test_the_committed_files_are_stamped():
    """What is committed names the address of pyproject.toml."""
    for path in (stamp.ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert next(c for c in notebook.cells if c.cell_type == "code").source == stamp.setup_cell()
        assert stamp.badge(path.stem) in notebook.cells[0].source
    assert f"git clone {stamp.address()[0]} &&" in (stamp.ROOT / "README.md").read_text()


def test_the_setup_cell_installs_only_what_is_missing():
    """Touching torch, numpy, IPython or ipywidgets on Colab breaks the session; a restart or a login stops Run All."""
    source = stamp.setup_cell()
    ast.parse(source)
    assert len(source.splitlines()) <= 12
    for word in ("login", "os.kill", "exit", "numpy", "ipywidgets", "IPython", "restart"):
        assert word not in source
    assert '*kept, "hermes_nb' in source  # pip keeps the torch that is there, or says that it cannot
    assert source.index("find_spec") < source.index('"install"')


@pytest.mark.parametrize(("version", "removed"), [("0.10.0", True), ("0.9.0", True), ("0.16.0", False)])
def test_only_an_old_torchao_is_removed(version, removed, monkeypatch, capsys):
    """PEFT raises beside an old one, which Colab ships; a new one is somebody's own."""
    import importlib.metadata
    import importlib.util
    import subprocess

    calls = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    before = stamp.setup_cell().partition("from hermes_nb")[0]
    exec(before, {})
    assert [c[-1] for c in calls] == (["torchao"] if removed else [])


def test_outside_a_checkout_it_says_so(tmp_path):
    """An installed package has no notebooks to stamp."""
    with pytest.raises(FileProblem, match="checkout"):
        stamp.address(tmp_path)
