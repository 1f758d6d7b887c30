"""Run alone: python -m pytest tests/test_exercises_evaluate.py"""

import math
import time

import pytest

from hermes_nb.exercises import evaluate as check


def right(a, b):
    return math.ceil((1.96 + 0.84) ** 2 * (a * (1 - a) + b * (1 - b)) / (a - b) ** 2)


def test_the_right_answer_is_solved_in_under_a_second(capsys):
    """By hand: 7.84 x 0.37 / 0.01 = 290.08, so 291."""
    begun = time.perf_counter()
    assert right(0.7, 0.8) == 291
    assert check.pairs_needed(right)
    assert time.perf_counter() - begun < 2  # under a second on a quiet machine
    said = capsys.readouterr().out
    assert "solved: all 4 cases hold" in said
    assert "about 155" in said


@pytest.mark.parametrize("empty", [lambda a, b: None, lambda a, b: ...])
def test_an_untouched_answer_gets_a_hint(empty, capsys):
    """Run All must go on, and say what to do."""
    assert not check.pairs_needed(empty)
    assert "not solved yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda a, b: 100, "n = 100, a power of"),
        (lambda a, b: 2 * right(a, b), "n = 582"),
        (lambda a, b: right(a, b) if a < b else -1, "0.80 against 0.70"),
        (lambda a, b: 291, "0.60 against 0.80"),
        (lambda a, b: 10**12, "no number of pairs"),
        (lambda a, b: "many", "no number of pairs"),
        (lambda a, b: math.nan, "no number of pairs"),
        (lambda a, b: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_answer_is_named_and_never_raises(wrong, said, capsys):
    """The learner must see which case fails, and why."""
    assert not check.pairs_needed(wrong)
    assert said in capsys.readouterr().out


def test_the_simulation_agrees_with_the_paired_remark():
    """155 pairs, 5 % one way, 15 % the other: McNemar's test tells them apart in about 80 % of experiments."""
    import random

    dice, told = random.Random(0), 0
    for _ in range(800):
        draws = [dice.random() for _ in range(155)]
        a, b = sum(d < 0.05 for d in draws), sum(0.05 <= d < 0.2 for d in draws)
        told += abs(b - a) > 1.96 * math.sqrt(a + b)
    assert 0.75 <= told / 800 <= 0.85


def test_power_is_5_percent_where_there_is_no_difference():
    """A simulation that finds differences where none is would accept any n."""
    assert check.power(0.7, 0.7, 291) == pytest.approx(0.05, abs=0.02)
