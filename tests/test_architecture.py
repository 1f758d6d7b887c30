"""The house: imports run downwards only, rooms stay small, every module has its test. Picture: README, "The house"."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hermes_nb"
FLOORS = (
    {"errors"},
    {"runtime", "roofline"},
    {"recipes", "templates"},
    {"models", "formats", "runs", "history", "packing"},
    {"training", "reference", "audit", "generate"},
    {"sft", "dpo", "formatting"},
    {"evaluate"},
    {"plots", "merge", "judges", "estimate", "views"},
    {"widgets", "pipeline", "course", "publish", "stamp", "lessons", "exercises", "bench"},
    {"cli"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("__main__.py",) and p != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """Name of the module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "hermes_nb":
            names = [f"hermes_nb.{a.name}" for a in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hermes_nb."):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("hermes_nb.")]
        found |= {n.split(".")[1] for n in names}
    return found & set(FLOOR)


def test_every_room_is_on_a_floor_and_has_a_test():
    """A module nobody can place is a module nobody finds."""
    rooms = {room(p) for p in FILES}
    assert rooms == set(FLOOR)
    tests = {p.stem.removeprefix("test_") for p in Path(__file__).parent.glob("test_*.py")}
    assert rooms - {"errors"} <= tests  # errors are tested where they are raised


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards_only(path):
    """A room that needs one above it cannot be read, or tested, without it."""
    for other in imported(path) - {room(path)}:
        assert FLOOR[other] < FLOOR[room(path)], f"{room(path)} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_rooms_are_small_and_documented(path):
    """One idea in under 250 lines; functions under 40; every public name says what it does."""
    text = path.read_text()
    assert text.count("\n") < 250
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, node.name
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_shortcuts(path):
    """No getattr guards, bare excepts, star imports, chdir, pickle, eval, unsafe yaml or remote code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
        if isinstance(node, ast.ImportFrom):
            assert "*" not in {a.name for a in node.names}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "os.chdir", "yaml.load", "torch.load", "os.system", "pickle.load")
            assert name != "getattr" or len(node.args) == 2, "getattr with a default hides a missing name"
            assert not [k for k in node.keywords if k.arg in ("trust_remote_code", "shell")]
