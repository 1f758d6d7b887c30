"""Run alone: python -m pytest tests/test_judges.py"""

import math

import pytest

from hermes_nb import judges
from hermes_nb.errors import DataProblem
from hermes_nb.judges import Judge

PAIRS = judges.example_pairs(400)


def test_the_odds_are_those_of_the_three_parts():
    """By hand: position 0.5, length 1.0 x ln 2, quality 2.0 x 0.25: log-odds 1.693, P 0.8447; swapped -0.693, 1/3."""
    pair = {"length_a": 40, "length_b": 20, "quality": 0.25}
    judge = Judge(0.5, 1.0, 2.0)
    assert judge.first_wins(pair) == pytest.approx(0.8447, abs=1e-4)
    assert judge.first_wins(pair, swapped=True) == pytest.approx(1 / (1 + math.exp(0.6931)), abs=1e-4)


def test_an_honest_judge_is_found_honest():
    """A test for bias that always finds one is worth nothing."""
    found = judges.find_bias(Judge(0, 0, 3.0), PAIRS)
    for name in ("first", "longer"):
        assert found[name]["low"] < 0.5 < found[name]["high"], name


def test_a_planted_position_bias_is_found_and_is_no_length_bias():
    """Mixed up, one would mend the wrong thing."""
    found = judges.find_bias(Judge(1.0, 0, 3.0), PAIRS)
    assert found["first"]["low"] > 0.5
    assert found["longer"]["low"] < 0.5 < found["longer"]["high"]
    assert found["consistent"]["value"] < 0.7


def test_a_planted_length_bias_is_found_and_is_no_position_bias():
    """The longer answer is longer in both orders: swapping must not hide it."""
    found = judges.find_bias(Judge(0, 1.5, 3.0), PAIRS)
    assert found["longer"]["low"] > 0.5
    assert found["first"]["low"] < 0.5 < found["first"]["high"]


def test_asking_in_both_orders_cancels_the_position():
    """Always showing one's own model first would win by position alone."""
    judge = Judge(position_bias=1.5, length_bias=0, quality_weight=0)
    assert judges.win_rate(judges.verdicts(judge, PAIRS), "a")["low"] > 0.7
    both = judges.win_rate(judges.both_orders(judge, PAIRS), "a")
    assert both["low"] < 0.5 < both["high"]


def test_disagreement_is_a_tie():
    """A judge who only sees the position contradicts itself on every pair."""
    assert set(judges.both_orders(Judge(50.0, 0, 0), PAIRS)) == {"tie"}
    assert judges.win_rate(["tie", "a", "b", "b"])["value"] == pytest.approx(0.625)


def test_pairs_of_like_length_cancel_the_length():
    """Where one side is always the longer one, a length bias looks like quality until lengths are made alike."""
    pairs = [{"length_a": 40, "length_b": 80 if i % 2 else 40, "quality": 0.0} for i in range(400)]
    judge = Judge(0, 2.0, 0)
    assert judges.win_rate(judges.both_orders(judge, pairs))["low"] > 0.5
    like = judges.like_length(pairs)
    assert len(like) == 200
    fair = judges.win_rate(judges.both_orders(judge, like))
    assert fair["low"] <= 0.5 <= fair["high"]


def test_the_same_judge_says_the_same():
    """A figure that changes with every run cannot be checked."""
    assert judges.verdicts(Judge(seed=3), PAIRS) == judges.verdicts(Judge(seed=3), PAIRS)
    assert judges.verdicts(Judge(seed=3), PAIRS) != judges.verdicts(Judge(seed=4), PAIRS)
    assert judges.example_pairs(9, 1) == judges.example_pairs(9, 1)


def test_what_cannot_be_judged_is_said():
    """A logarithm of 0, and a length bias that no pair can show."""
    with pytest.raises(DataProblem, match="pair 0: an answer of length 0"):
        judges.verdicts(Judge(), [{"length_a": 0, "length_b": 3, "quality": 0.0}])
    with pytest.raises(DataProblem, match="equal quality and different length"):
        judges.find_bias(Judge(), [{"length_a": 3, "length_b": 3, "quality": 0.5}])
