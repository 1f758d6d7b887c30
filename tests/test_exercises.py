"""How exercises are checked, and every notebook's exercise tried: untouched, solved, wrong. No model is needed.

Run alone: python -m pytest tests/test_exercises.py
"""

import re
from pathlib import Path

import nbformat
import pytest

from hermes_nb import course
from hermes_nb.exercises.common import Case, check, same

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
CASES = [Case("two and three", (2, 3), 5, "It is their sum."), Case("zero", (0, 0), 0, "Nothing is nothing.")]


def test_an_untouched_exercise_gives_the_hint(capsys):
    """Run All must not stop at a cell that the reader has not come to yet."""
    assert not check(lambda a, b: ..., CASES, "add them")
    assert "not solved yet. Hint: add them" in capsys.readouterr().out
    assert not check(lambda a, b: None, CASES, "add them")


def test_a_wrong_answer_names_the_case_and_why(capsys):
    """'Wrong' alone teaches nothing."""
    assert not check(lambda a, b: a * b, CASES, "add them")
    out = capsys.readouterr().out
    assert "1 of 2 cases hold" in out
    assert "two and three: gave 6, must be 5. It is their sum." in out


def test_an_answer_that_raises_is_told_not_raised(capsys):
    """A learner's mistake is a teaching moment, not a traceback of ours."""
    assert not check(lambda a: a, CASES, "add them")
    assert "raised TypeError" in capsys.readouterr().out


def test_a_right_answer_is_solved(capsys):
    """And says so in the word that the course runner looks for."""
    assert check(lambda a, b: a + b, CASES, "add them")
    assert capsys.readouterr().out.startswith("solved: all 2 cases hold")


def test_values_are_compared_as_a_reader_would():
    """Numbers within a tolerance, containers element by element, True is not 1."""
    assert same(0.1 + 0.2, 0.3)
    assert same({"a": [1.0, 2]}, {"a": (1.0000001, 2)})
    assert not same(1, True)
    assert not same("x", 1.0)
    assert not same({"a": 1}, {"b": 1})


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def outcome(notebook, code: str, capsys) -> str:
    """What an exercise cell prints, with the checks that the notebook imports in any cell."""
    sources = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    imports = re.findall(r"^from hermes_nb\.exercises import .*$", sources, re.M)
    exec(compile("\n".join([*imports, code]), "exercise", "exec"), {})
    return capsys.readouterr().out


def test_every_notebook_has_an_exercise_with_a_solution(notebook):
    """Reading alone teaches little."""
    assert course.exercises(notebook)


def test_as_shipped_it_hints_and_with_its_solution_it_is_solved(notebook, capsys):
    """A check that refuses its own solution, or takes an empty answer, is worse than none."""
    for cell, solution in course.exercises(notebook):
        assert "not solved yet" in outcome(notebook, cell.source, capsys), cell.source
        assert "solved:" in outcome(notebook, solution, capsys), solution
        assert cell.source.strip().splitlines()[-1] == solution.strip().splitlines()[-1]
