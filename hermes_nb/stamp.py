"""One place for the repository's address: `pyproject.toml`. Badges and setup cells are stamped from it.

`make stamp` (`python -m hermes_nb course --stamp`) writes them into every notebook and into README.md; a release sets
`[tool.hermes_nb] ref` to its tag first. Lesson: 00_tour.
"""

import re
import tomllib
from pathlib import Path

from hermes_nb.errors import FileProblem

ROOT = Path(__file__).resolve().parent.parent
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(https://colab\.research\.google\.com/github/[^)]*/(\w+)\.ipynb\)")
CLONE = re.compile(r"git clone \S+ && cd \S+")

# PEFT 0.19 and later raise at get_peft_model beside a torchao older than 0.16, which Colab and Kaggle ship
SETUP = """\
# Setup: installs only what is missing, touches neither torch nor Jupyter; safe to run again
import importlib.metadata, importlib.util, subprocess, sys
pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
kept = ["torch==" + importlib.metadata.version("torch")] if importlib.util.find_spec("torch") else []
if importlib.util.find_spec("hermes_nb") is None:
    subprocess.run([*pip, "install", *kept, "hermes_nb @ git+{url}@{ref}"], check=True)
if importlib.util.find_spec("torchao"):  # one older than 0.16 stops PEFT
    if [int(n) for n in importlib.metadata.version("torchao").split(".")[:2]] < [0, 16]:
        subprocess.run([*pip, "uninstall", "-y", "torchao"], check=True)
from hermes_nb import runtime
machine = runtime.announce()"""


def address(root: Path = ROOT) -> tuple[str, str]:
    """Repository URL and ref (branch or tag) from `pyproject.toml`. Raises FileProblem outside a checkout."""
    file = root / "pyproject.toml"
    if not file.is_file():
        raise FileProblem(f"{file}: missing; stamping works in a checkout only.")
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    return data["project"]["urls"]["Repository"], data["tool"]["hermes_nb"]["ref"]


def setup_cell(root: Path = ROOT) -> str:
    """Source of the setup cell, the same in every notebook."""
    url, ref = address(root)
    return SETUP.replace("{url}", url).replace("{ref}", ref)


def badge(notebook: str, root: Path = ROOT) -> str:
    """Markdown of the badge that opens a notebook in Colab."""
    url, ref = address(root)
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    path = f"{url.removeprefix('https://github.com/')}/blob/{ref}/notebooks/{notebook}.ipynb"
    return f"[![Open in Colab]({picture})](https://colab.research.google.com/github/{path})"


def stamp(root: Path = ROOT) -> list[str]:
    """Write badge and setup cell into every notebook, badges and clone line into README.md; returns what changed."""
    import nbformat

    changed = []
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = setup_cell(root)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _text(cell.source, root)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            changed.append(path.name)
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    if _text(text, root) != text:
        readme.write_text(_text(text, root), encoding="utf-8")
        changed.append(readme.name)
    return changed


def _text(text: str, root: Path) -> str:
    """A text with its badges and its clone line made anew."""
    url = address(root)[0]
    text = BADGE.sub(lambda found: badge(found[1], root), text)
    return CLONE.sub(f"git clone {url} && cd {url.rsplit('/', 1)[1]}", text)
