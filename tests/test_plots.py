"""Run alone: python -m pytest tests/test_plots.py"""

import pytest
from matplotlib.figure import Figure

from hermes_nb import evaluate, history, plots, widgets
from hermes_nb.generate import Answer


@pytest.fixture
def table():
    rows = []
    for step in range(1, 4):
        log = {"loss": 0.7 - step / 10, "rewards/chosen": step / 9, "rewards/rejected": -step, "rewards/margins": step}
        rows += history.entries(log, step)
    return history.frame(rows)


def test_dpo_curves_show_the_numbers_of_the_history(table):
    """A curve that is not the run's is decoration."""
    fig = plots.curves(table, steps=10)
    assert isinstance(fig, Figure)
    lines = {line.get_label(): line for ax in fig.axes for line in ax.lines}
    assert list(lines["_chosen, each step"].get_ydata()) == pytest.approx([1 / 9, 2 / 9, 3 / 9])
    assert list(lines["_rejected, each step"].get_ydata()) == [-1, -2, -3]
    assert list(lines["rejected"].get_ydata()) == pytest.approx([-1, -1.5, -2])  # the running mean
    assert all(ax.get_xlim() == (0, 10) and ax.get_xlabel() == "step" for ax in fig.axes)


def test_sft_has_one_curve(table):
    """No empty panels."""
    fig = plots.curves(table[table.metric == "loss"])
    assert len(fig.axes) == 1
    assert "nats" in fig.axes[0].get_ylabel()


def test_bars_have_their_intervals():
    """An adjective without an interval is an opinion: 1 of 2 cards, [0.09, 0.91]."""
    answers = [Answer("Short answer: x", True, 3), Answer("Rain!", False, 3)]
    fig = plots.behaviour({"base": evaluate.summary(answers)})
    ax = fig.axes[0]
    assert ax.patches[0].get_height() == 0.5
    assert "n = 2" in ax.get_xticklabels()[0].get_text()


def test_text_from_data_is_not_read_as_mathematics():
    """An answer with dollar signs must not crash the picture or turn into formulas."""
    fig = plots.answers({"base": "costs $5 and $x_{", "a$b$": "ok"}, "what is $x$ {?")
    assert widgets.png(fig).startswith(b"\x89PNG")
    assert fig.axes[0].texts[0].get_text().startswith("costs $5")


def test_pictures_stay_small():
    """A committed notebook of many pictures must stay under 400 KB."""
    rows = [
        r
        for s in range(60)
        for r in history.entries(
            {"loss": 1 / (s + 1), "rewards/margins": s, "rewards/chosen": s, "rewards/rejected": -s}, s
        )
    ]
    assert len(widgets.png(plots.curves(history.frame(rows)))) < 80_000
    assert len(widgets.png(plots.sizes({"base": 1e8, "adapter": 5e6}, {"merged": 270, "adapter": 20}))) < 80_000


def test_characters_that_cannot_be_drawn_do_not_stop_a_figure():
    """A lone surrogate in a model's answer raised TypeError in the middle of a vote; a box shows that there was one."""
    for evil in ("a\ud800b", "a\x00b", "a\u202eb", "a\x1bb"):
        fig = plots.answers({evil: evil}, evil)
        assert fig.axes[0].texts[0].get_text() == "a\ufffdb"
        assert widgets.png(plots.tokens([evil], ["trained"], evil)).startswith(b"\x89PNG")
    assert plots.answers({"m": "one\n\ntwo \u00e9\u4e2d"}, "q").axes[0].texts[0].get_text() == "one\n\ntwo \u00e9\u4e2d"
