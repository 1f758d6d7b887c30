"""Run alone: python -m pytest tests/test_plots_preference.py"""

import pytest

from hermes_nb import evaluate, history, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.plots import preference
from hermes_nb.plots.base import MARGIN, WIDTH

NAMES = {"a": "a: against padded", "b": "b: against evasive"}
KINDS = ["a", "b", "a", "b"]


def rate(share, n=20):
    return evaluate.rate([True] * round(share * n) + [False] * (n - round(share * n)))


def experiment(slope=0.1, share=0.5, stops=0.9, tokens=40.0, steps=10):
    """What `lessons.experiment` gives: margin `slope * step`, of which `share` is the chosen answer's."""
    rows = []
    for step in range(1, steps + 1):
        margin = slope * step
        log = {
            "loss": 0.6,
            "rewards/margins": margin,
            "rewards/chosen": share * margin,
            "rewards/rejected": (share - 1) * margin,
        }
        rows += history.entries(log, step)
    sampled = {"card": rate(0.8), "stops": rate(stops), "tokens": evaluate.mean([tokens - 1, tokens + 1] * 10)}
    return {"title": "t", "changes": {}, "history": history.frame(rows), "metrics": {}, "sampled": sampled}


def figures():
    runs = {"healthy": experiment(), "costs $5 and $x_{": experiment(0.3), "cut": experiment(stops=0.2, tokens=90.0)}
    by_kind = {k: {"accuracy": rate(0.8), "margin": evaluate.mean([0.5, 1.5, 2.5])} for k in NAMES}
    return {
        "failures": preference.failures(runs),
        "betas": preference.betas({0.01: experiment(), "beta 0.1": experiment(), "0.5": experiment()}),
        "by_kind": preference.by_kind(by_kind, {"longer": 0.5}, NAMES),
        "margin_steps": preference.margin_steps({0: [0.0] * 4, 5: [0.1, 0.4, -0.2, 0.3]}, KINDS, NAMES, 5),
        "two_references": preference.two_references([0.0] * 4, [0.5, 1.0, -0.4, 0.9]),
        "stop_rates": preference.stop_rates({"SFT": rate(1.0), "cut": rate(0.3)}),
    }


@pytest.fixture(scope="module")
def drawn():
    return figures()


def test_every_axis_says_what_it_shows(drawn):
    """An axis without a name is a riddle; and nothing may be wider than the page or heavier than 80 KB."""
    for name, fig in drawn.items():
        assert fig.get_figwidth() == WIDTH
        assert 2_000 < len(widgets.png(fig)) < 80_000, name
        for ax in fig.axes:
            assert ax.get_xlabel() or name == "failures", name
            assert ax.get_ylabel() or ax.get_yticklabels(), name


def test_sliders_do_not_move_the_axes():
    """A slider that rescales the axes hides what it changes."""
    steps = {0: [0.0] * 4, 5: [0.1, 0.4, -0.2, 0.3], 10: [1.0, 3.0, -1.0, 0.5]}
    axes = [preference.margin_steps(steps, KINDS, NAMES, s).axes[0] for s in steps]
    assert len({(a.get_xlim(), a.get_ylim()) for a in axes}) == 1


def test_a_missing_metric_is_named():
    """An empty axes says nothing about what is missing."""
    with pytest.raises(DataProblem, match="run 'one' has no kl; it has loss"):
        preference._line(None, experiment()["history"], "kl", "one")


def test_failures_stand_beside_the_healthy_run(drawn):
    """A failure alone looks like any run: each row has the healthy curve and the healthy rates."""
    fig = drawn["failures"]
    assert len(fig.axes) == 8
    margin, rewards, shares, tokens = fig.axes[4:]
    assert margin.get_title(loc="left") == "cut"
    healthy, this = margin.lines[:2]
    assert healthy.get_ydata()[-1] == this.get_ydata()[-1] == pytest.approx(1.0)
    assert [r.get_ydata()[-1] for r in rewards.lines[:2]] == [pytest.approx(0.5), pytest.approx(-0.5)]
    bars = {round(p.get_y() + p.get_height() / 2, 1): p for p in shares.patches}
    assert (bars[-0.2].get_width(), bars[0.2].get_width()) == (pytest.approx(0.9), pytest.approx(0.2))
    assert bars[0.2].get_facecolor()[:3] == pytest.approx([int(MARGIN[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert [p.get_width() for p in tokens.patches] == [pytest.approx(40), pytest.approx(90)]
    assert fig.axes[-1].get_xlabel() == "tokens an answer"


def test_failures_need_a_healthy_run():
    """One experiment alone would be drawn against itself."""
    with pytest.raises(DataProblem, match="healthy run first"):
        preference.failures({"cut": experiment()})


def test_distance_is_reward_over_beta():
    """By hand: margins 0.1 x (6..10) have the mean 0.8, chosen's half is 0.4; over beta 0.01 that is 40 nats."""
    fig = preference.betas({"0.01": experiment(), "beta 0.5": experiment()})
    widths = [p.get_width() for p in fig.axes[2].patches]
    assert widths == pytest.approx([40.0, -40.0, 0.8, -0.8])
    assert [t.get_text() for t in fig.axes[1].get_yticklabels()] == ["beta 0.01", "beta 0.5"]


@pytest.mark.parametrize("label", ["low", "", None])
def test_a_label_without_beta_is_refused(label):
    """A distance over an unknown beta would be a made-up number."""
    with pytest.raises(DataProblem, match="names no beta"):
        preference.betas({label: experiment()})


def test_bars_have_their_values_and_whiskers():
    """By hand: 8 of 10 is 0.8 with Wilson's [0.49, 0.94]; a whisker elsewhere claims another certainty."""
    found = {"b": {"accuracy": rate(0.8, 10), "margin": evaluate.mean([1.0, 2.0, 3.0])}}
    left, right = preference.by_kind(found, {"longer": 0.55}, NAMES).axes
    assert left.patches[0].get_width() == pytest.approx(0.8)
    assert list(left.lines[0].get_xdata()) == pytest.approx([0.49, 0.943], abs=0.002)
    assert left.lines[1].get_xdata()[0] == 0.55
    assert right.patches[0].get_width() == pytest.approx(2.0)
    assert "n = 10" in left.get_yticklabels()[0].get_text()


def test_a_single_value_has_no_endless_whisker():
    """The interval of one value is infinite and would blow up the axis."""
    found = {"a": {"accuracy": rate(1.0, 1), "margin": evaluate.mean([2.0])}}
    fig = preference.by_kind(found, {}, NAMES)
    assert fig.axes[1].get_xlim()[1] < 10


def test_every_pair_is_in_the_histogram():
    """A pair outside of the bins would be a failure hidden from view."""
    steps = {0: [0.0] * 4, 20: [-7.0, 0.4, 9.0, 0.3]}
    for step in steps:
        fig = preference.margin_steps(steps, KINDS, NAMES, step)
        assert sum(p.get_height() for c in fig.axes[0].containers for p in c) == 4
    assert "+0.68; 4 pairs, 3 above 0" in fig.axes[0].get_title()
    assert "all in one bar" in preference.margin_steps(steps, KINDS, NAMES, 0).axes[0].get_title()
    with pytest.raises(DataProblem, match="no step 7; there are 0, 20"):
        preference.margin_steps(steps, KINDS, NAMES, 7)


def test_a_kind_without_pairs_is_no_error():
    """A short held-out set may lack one kind."""
    preference.margin_steps({0: [0.3]}, ["a"], NAMES, 0)


def test_the_right_reference_gives_ln_2(drawn):
    """By hand: -log sigmoid(0) = ln 2 = 0.6931 for each pair; the wrong one shows another mean."""
    right, wrong = drawn["two_references"].axes
    assert "mean margin +0.000, mean loss 0.6931" in right.get_title()
    assert "mean margin +0.500" in wrong.get_title()
    assert right.get_xlim() == wrong.get_xlim()


def test_stop_rates_are_in_order_with_n(drawn):
    """The first label belongs on top, as in the text."""
    ax = drawn["stop_rates"].axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["SFT (n = 20)", "cut (n = 20)"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [p.get_width() for p in ax.patches] == [1.0, 0.3]
