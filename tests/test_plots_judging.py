"""Figures of 05_evaluate. Run alone: python -m pytest tests/test_plots_judging.py"""

import pytest

from hermes_nb import evaluate, widgets
from hermes_nb.generate import Answer
from hermes_nb.plots import judging

CARDS = evaluate.summary([Answer("Short answer: x", True, 40), Answer("Great question! x", False, 90)])
NAMES = {"a": "a: against padded", "c": "c: does not fit"}
ROWS = [
    {"kind": k, "chosen": [{"content": "xx"}], "rejected": [{"content": "x" * n}]}
    for k, n in (("a", 9), ("a", 8), ("c", 1), ("c", 3))
]
BY_KIND = {"a": evaluate.rate([1, 1]), "c": evaluate.rate([1, 0])}


def figures():
    baseline = evaluate.length_baseline(ROWS)
    yield judging.stops_and_lengths({"base": CARDS, "sft": CARDS}, {"base": CARDS})
    yield judging.kinds_and_baselines(evaluate.rate([1, 1, 1, 0]), BY_KIND, baseline, NAMES)
    yield judging.paired_table(evaluate.paired([1, 0, 0], [1, 1, 0]), "sft", "dpo", "Card")
    yield judging.calibration(evaluate.calibration([0.1, -0.5, 2.0, 1.0], 2))
    yield judging.temperatures({"sft": {"greedy": CARDS, "1.0": CARDS}, "dpo": {"greedy": CARDS, "1.0": CARDS}})
    yield judging.shares({"voter": evaluate.rate([1, 0, 1])}, "Win rate")
    yield judging.form_radar({"sft": {"math": 3.0, "stem": 5.0, "coding": 0.0}})
    yield judging.votes_needed({0.6: 194, 0.7: 47}, 20)


@pytest.mark.parametrize("number", range(8))
def test_every_figure_is_small_and_labelled(number):
    """An axis without a name cannot be read; a heavy picture does not load."""
    fig = list(figures())[number]
    assert len(widgets.png(fig)) < 80_000
    for ax in fig.axes:
        assert ax.get_xlabel() or ax.get_xticklabels()[0].get_text()
        assert ax.get_ylabel() or ax.get_yticklabels()[0].get_text()


def test_points_are_the_numbers_of_the_run():
    """A picture that is not the numbers is decoration: stops 1 of 2, mean of 40 and 90 tokens."""
    fig = judging.stops_and_lengths({"sft": CARDS})
    values = [ax.containers[0].lines[0].get_ydata()[0] for ax in fig.axes]
    assert values == [0.5, 65]


def test_the_baseline_stands_beside_each_kind():
    """Kind a is given away by length, in all it is not: all three rates must be drawn."""
    fig = judging.kinds_and_baselines(evaluate.rate([1, 1, 1, 0]), BY_KIND, evaluate.length_baseline(ROWS), NAMES)
    drawn = [c.lines[0].get_ydata()[0] for c in fig.axes[0].containers]
    assert drawn == [0.75, 0.25, 0.75, 1.0, 0.0, 1.0, 0.5, 0.5, 0.5]


def test_the_paired_table_shows_all_four_counts():
    """Every question is in one square."""
    fig = judging.paired_table({"only_a": 2, "only_b": 39, "both": 18, "neither": 1, "p": 1e-9}, "sft", "dpo", "Card")
    assert sorted(t.get_text() for t in fig.axes[0].texts) == ["1", "18", "2", "39"]
    assert "below 0.001" in fig.axes[0].get_title()


def test_styles_fill_the_whole_bar():
    """Shares of one answer each must sum to 1."""
    ax = judging.temperatures({"sft": {"greedy": CARDS}}).axes[0]
    assert sum(p.get_height() for p in ax.patches) == pytest.approx(1.0)
