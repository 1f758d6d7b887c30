"""Run alone: python -m pytest tests/test_exercises_merge.py"""

import itertools

import pytest

from hermes_nb import roofline
from hermes_nb.exercises import merge as exercise
from hermes_nb.merge import survival

RIGHT = {"A": ("dequantized", "float32"), "B": ("dequantized", "float16"), "C": ("original", "bfloat16")}
PICKS = list(itertools.product(("dequantized", "original"), ("float32", "float16", "bfloat16")))


def test_right_answers_are_solved(capsys):
    """A right answer that is refused teaches to guess."""
    assert exercise.pick(RIGHT)
    assert capsys.readouterr().out.startswith("solved: ")


@pytest.mark.parametrize("nothing", [None, ..., (None, None), (..., ...)])
def test_untouched_gives_a_hint(capsys, nothing):
    """Run All must pass an unsolved exercise, and help."""
    assert not exercise.pick(dict.fromkeys("ABC", nothing))
    out = capsys.readouterr().out
    assert "not solved yet" in out
    assert "Hint" in out


@pytest.mark.parametrize(("run", "wrong"), [(r, p) for r in RIGHT for p in PICKS if p != RIGHT[r]])
def test_every_wrong_pick_is_named_with_its_reason(capsys, run, wrong):
    """'Wrong' alone teaches nothing."""
    assert not exercise.pick(RIGHT | {run: wrong})
    out = capsys.readouterr().out
    assert f"run {run}" in out
    assert out.startswith("2 of 3")
    assert len(out) > 100
    assert "solved" not in out


@pytest.mark.parametrize(
    "odd", [{}, 3, None, {"A": 1}, RIGHT | {"A": "float32"}, RIGHT | {"B": ("auto", "auto")}, RIGHT | {"C": ([], {})}]
)
def test_nothing_is_ever_raised(capsys, odd):
    """An exception in an exercise cell stops Run All."""
    assert not exercise.pick(odd)
    assert capsys.readouterr().out.strip()


def test_the_reasons_are_measured_ones():
    """The explanations quote figures: they must be those that the lesson's ladder gives."""
    kept = {(r["dtype"], r["size"]): r["cosine"] for r in survival.ladder([1e-3, 3e-2], ["float16", "bfloat16"])}
    assert kept["bfloat16", 1e-3] == pytest.approx(0.64, abs=0.01)
    assert kept["float16", 1e-3] == pytest.approx(0.98, abs=0.005)
    assert kept["bfloat16", 3e-2] == pytest.approx(0.998, abs=0.001)
    assert 4 * roofline.parameters(roofline.MISTRAL_7B) / 1e9 == pytest.approx(29, abs=0.1)
    assert [row["run"] for row in exercise.RUNS] == list(RIGHT)
