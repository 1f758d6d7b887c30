"""Run alone: python -m pytest tests/test_plots_losses.py"""

import math
import warnings
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hermes_nb import widgets
from hermes_nb.errors import DataProblem
from hermes_nb.plots import losses
from hermes_nb.plots.base import KINDS, WIDTH

AT = np.array([-5.5, -2.0, -0.3, -0.05, 0.0, 0.04, 0.2, 0.7, 1.5, 4.0])
SETTINGS = [
    (kind, beta, smoothing)
    for kind in losses.LOSSES
    for beta in (0.05, 1.0)
    for smoothing in (0.0, 0.2)
    if not losses.missing(kind, smoothing)
]


def curves(kind="sigmoid", margin=0.5, beta=0.1, smoothing=0.0, margins=()):
    return losses.loss_curves(kind, margin, beta, smoothing, margins)


def ticks(ax):
    """Ends of the ticks that stand for a run's pairs: (margin, height)."""
    return [tuple(float(v) for v in line[1]) for c in ax.collections for line in c.get_segments()]


def dots(ax):
    """Marked points: (x, y, shape)."""
    lines = [line for line in ax.lines if line.get_marker() in ("o", "^", "v")]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_marker()) for line in lines]


def trl(kind: str, beta: float, smoothing: float, margin: float) -> tuple[float, float]:
    """Loss of one pair by TRL's own code and its derivative by chosen's log-prob; answers of one token each."""
    from trl import DPOTrainer

    logps = torch.tensor([[margin / beta / 2], [-margin / beta / 2]], dtype=torch.float64, requires_grad=True)
    same = torch.zeros(2, 1, dtype=torch.float64)
    out = SimpleNamespace(log_probs=logps, entropy=same, mean_logits=same, is_top1=same.bool())
    model = lambda **inputs: out  # noqa: E731
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
        f_divergence_type="reverse_kl", beta=beta, loss_types=[kind], loss_weights=[1.0], label_smoothing=smoothing,
        args=SimpleNamespace(discopop_tau=0.05), use_weighting=False, _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
    )  # fmt: skip
    ids, mask = torch.ones(2, 2, dtype=torch.long), torch.tensor([[0, 1], [0, 1]])
    refs = {"ref_chosen_logps": same[0], "ref_rejected_logps": same[1]}
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": mask} | refs
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    loss.backward()
    return loss.item(), logps.grad[0].item()


@pytest.mark.parametrize(("kind", "beta", "smoothing"), SETTINGS)
def test_losses_and_pulls_are_trls(kind, beta, smoothing):
    """A playground of other formulas would teach another training; TRL's sigmoid knows no smoothing, ours is cDPO's."""
    if kind == "sigmoid" and smoothing > 0:
        assert trl(kind, beta, smoothing, 0.7) == trl(kind, beta, 0.0, 0.7), "TRL uses it now: change what we say"
        return
    for margin in AT:
        wanted, gradient = trl(kind, beta, smoothing, float(margin))
        assert losses.loss_at(kind, margin, beta, smoothing) == pytest.approx(wanted, rel=1e-6, abs=1e-7)
        slope = losses.loss_slope(kind, margin, beta, smoothing)
        assert beta * slope == pytest.approx(gradient, rel=1e-6, abs=1e-7), margin


@pytest.mark.parametrize(("kind", "beta", "smoothing"), SETTINGS)
def test_the_slope_is_that_of_the_loss(kind, beta, smoothing):
    """A pull that does not belong to the drawn loss would be seen by nobody."""
    step = 1e-6
    ends = [losses.loss_at(kind, AT + side * step, beta, smoothing) for side in (1, -1)]
    slope = losses.loss_slope(kind, AT, beta, smoothing)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "margin", "beta", "smoothing", "loss", "slope"),
    [
        # sigmoid(-ln 3) = 1/4; -log(3/4) = 0.2877, -log(1/4) = 1.3863
        ("sigmoid", math.log(3), 0.1, 0.0, 0.2877, -0.25),
        # 0.9 x 0.2877 + 0.1 x 1.3863; 0.1 x 3/4 - 0.9 x 1/4
        ("sigmoid", math.log(3), 0.1, 0.1, 0.3975, -0.15),
        # (0.9 x 0.2877 - 0.1 x 1.3863) / 0.8; -(0.1 x 3/4 + 0.9 x 1/4) / 0.8
        ("robust", math.log(3), 0.1, 0.1, 0.1504, -0.375),
        # 3/4 log(0.75 / 0.9) + 1/4 log(0.25 / 0.1) = -0.1367 + 0.2291; 3/16 x (log 3 - log 9) = -3/16 x 1.0986
        ("exo_pair", math.log(3), 0.1, 0.1, 0.0923, -0.2060),
        ("hinge", 0.25, 0.1, 0.0, 0.75, -1.0),
        ("hinge", 1.25, 0.1, 0.0, 0.0, 0.0),
        # h = 0.25 / 0.1 = 2.5, target 1 / 0.2 = 5: 2.5 squared; 2 x (0.25 - 0.5) / 0.01
        ("ipo", 0.25, 0.1, 0.0, 6.25, -50.0),
        # half of log 2 and half of 1; -(1/2)(1/2) - 1/2 + (1 - 0.6931) / 4 / 0.05
        ("discopop", 0.0, 0.1, 0.0, 0.8466, 0.7843),
    ],
)
def test_losses_by_hand(kind, margin, beta, smoothing, loss, slope):
    """Each worked out in the comment above its line; a wrong sign flips what is learnt."""
    assert float(losses.loss_at(kind, margin, beta, smoothing)) == pytest.approx(loss, abs=1e-4)
    assert float(losses.loss_slope(kind, margin, beta, smoothing)) == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize(("kind", "beta", "smoothing"), SETTINGS)
def test_far_margins_stay_finite(kind, beta, smoothing):
    """A small beta's run looked at with a large one has margins of thousands; exp would overflow into nan."""
    far = np.array([-2000.0, 2000.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(losses.loss_at(kind, far, beta, smoothing)).all()
        assert np.isfinite(losses.loss_slope(kind, far, beta, smoothing)).all()


@pytest.mark.parametrize(("kind", "beta", "smoothing"), SETTINGS)
def test_the_pull_is_gone_where_it_is_said_to_be(kind, beta, smoothing):
    """A target line beside the target; by hand: log(0.8 / 0.2) = 1.3863 for s = 0.2, and IPO's 1/2 for any beta."""
    rest = losses.loss_rest(kind, smoothing)
    smooth = smoothing > 0 and kind in ("sigmoid", "exo_pair")
    wanted = {"hinge": 1.0, "ipo": 0.5}.get(kind, 1.3863 if smooth else None)
    assert rest == (wanted and pytest.approx(wanted, abs=1e-4))
    if rest is not None:
        assert losses.loss_slope(kind, rest, beta, smoothing) == pytest.approx(0, abs=1e-9)
        assert abs(losses.loss_slope(kind, rest - 0.1, beta, smoothing)) > 1e-3
    labels = [line.get_label() for line in curves(kind, 0.5, beta, smoothing).axes[0].lines]
    assert any("no pull" in label for label in labels) == (rest is not None)


def test_ipos_target_is_named_in_nats():
    """1 / (2 beta) is the number of the paper: 5 nats at beta 0.1, 0.5 at beta 1."""
    for beta, nats in ((0.1, "5"), (1.0, "0.5")):
        labels = [line.get_label() for line in curves("ipo", 0.0, beta).axes[0].lines]
        assert f"no pull at margin 0.50 = beta x {nats} nats" in labels


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("aot", 0.0, 0.1, 0.0), "'aot' is no loss of a margin alone; choose one of sigmoid, robust"),
        (("sigmoid", 0.0, 0.0, 0.0), "beta is 0.0; it must be above 0"),
        (("sigmoid", 0.0, float("nan"), 0.0), "beta is nan"),
        (("robust", 0.0, 0.1, 0.5), "label smoothing is 0.5"),
        (("exo_pair", 0.0, 0.1, 0.0), "exo_pair needs label smoothing above 0"),
    ],
)
def test_what_is_not_defined_is_said(given, said):
    """A nan in a figure is an empty figure."""
    for function in (losses.loss_at, losses.loss_slope, losses.loss_facts):
        with pytest.raises(DataProblem, match=said):
            function(*given)


def test_the_share_of_the_pull_is_that_of_the_pairs_below_0():
    """By hand: -ln 3, ln 3, ln 3 pull 3/4, 1/4, 1/4: a third of the pairs has 3/5; losses 1.3863 and 2 x 0.2877."""
    three = [-math.log(3), math.log(3), math.log(3)]
    facts = losses.loss_facts("sigmoid", 0.0, 0.2, 0.0, three)
    assert (facts["pairs"], facts["below"]) == (3, 1)
    assert facts["share"] == pytest.approx(0.6)
    assert facts["mean_loss"] == pytest.approx((1.3863 + 2 * 0.2877) / 3, abs=1e-4)
    assert (facts["loss"], facts["weight"], facts["pull"]) == pytest.approx((0.6931, 0.5, 0.1), abs=1e-4)


def test_pulls_of_both_ways_do_not_cancel():
    """By hand: ipo at beta 1 has slopes -2 and +2 at margins -0.5 and 1.5; a sum of 0 would make shares infinite."""
    assert losses.loss_facts("ipo", 0.0, 1.0, 0.0, [-0.5, 1.5])["share"] == pytest.approx(0.5)
    assert losses.loss_facts("hinge", 0.0, 1.0, 0.0, [2.0, 3.0])["share"] == 0.0, "nothing pulls, nothing to share"
    none = losses.loss_facts("sigmoid", 0.0)
    assert (none["pairs"], none["share"], none["mean_loss"]) == (0, None, None)


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_the_axes_stay_put_for_each_loss(kind):
    """Axes that follow the sliders hide what these change: bounds and places, also of axes without a curve."""
    seen = set()
    for margin, beta, smoothing, margins in ((0, 0.1, 0.0, ()), (5.0, 1.0, 0.45, (-3.0,)), (-6, 0.01, 0.1, (9.0, 1.0))):
        fig = curves(kind, margin, beta, smoothing, margins)
        widgets.png(fig)
        seen.add(tuple((a.get_xlim(), a.get_ylim(), tuple(a.get_position().bounds)) for a in fig.axes))
    assert len(seen) == 1


@pytest.mark.parametrize(("kind", "beta", "smoothing"), SETTINGS)
def test_axes_are_named_and_pictures_light(kind, beta, smoothing):
    """An axis without a name is a riddle; a heavy picture bloats a notebook; text may not leave the page."""
    fig = curves(kind, -3.0, beta, smoothing, [-1.0] * 50 + [0.5] * 950)
    assert fig.get_figwidth() == WIDTH
    assert 2_000 < len(widgets.png(fig)) < 80_000
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)
    width, height = fig.bbox.size
    for ax in fig.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    left, right = (ax.get_tightbbox() for ax in fig.axes)
    assert left.x1 < right.x0


def test_the_curves_are_the_loss_and_its_pull():
    """A dot on another curve than the drawn one."""
    left, right = curves("robust", 0.5, 0.3, 0.2).axes
    x, y = left.lines[0].get_data()
    assert y == pytest.approx(losses.loss_at("robust", x, 0.3, 0.2))
    weight, pull = right.lines[1:3]
    slope = losses.loss_slope("robust", weight.get_xdata(), 0.3, 0.2)
    assert weight.get_ydata() == pytest.approx(-slope)
    assert pull.get_ydata() == pytest.approx(-0.3 * slope)


def test_the_pair_is_marked_on_every_curve():
    """By hand, sigmoid at ln 3 and beta 0.2: loss 0.2877, weight 0.25, pull 0.05; the titles say so."""
    left, right = curves("sigmoid", math.log(3), 0.2).axes
    assert dots(left) == [(pytest.approx(math.log(3)), pytest.approx(0.2877, abs=1e-4), "o")]
    assert [y for _, y, _ in dots(right)] == pytest.approx([0.25, 0.05])
    assert left.get_title() == "margin +1.10 = beta x +5.5 nats: loss 0.2877"
    assert right.get_title() == "pull +0.05 = beta 0.2 x weight +0.25"


def test_a_pair_beyond_the_axes_is_an_arrow_at_their_edge():
    """A dot that left the page looks like no pair; by hand the hinge at -6 is 7, robust at 6 with 0.45 is -26.98."""
    assert dots(curves("hinge", -6.0).axes[0]) == [(-6.0, 6.2, "^")]
    assert dots(curves("robust", 6.0, 0.1, 0.45).axes[0]) == [(6.0, -7.5, "v")]


def test_every_pair_of_the_run_is_a_tick_on_both_axes():
    """Ticks only where they fit would hide the very pairs that pull most: beyond the axis they stand at its edge."""
    fig = curves("sigmoid", 0.0, 0.1, 0.0, [-9.0, -0.5, 0.25, 8.0])
    for ax in fig.axes:
        assert ticks(ax) == [(-6.0, 0.10), (-0.5, 0.10), (0.25, 0.05), (6.0, 0.05)]
    labels = [c.get_label() for ax in fig.axes for c in ax.collections]
    assert labels[0].startswith("the run's 4 pairs: mean loss 2.")
    assert labels[1].startswith("2 of 4 below 0 (long) have 7")
    assert not any(ax.collections for ax in curves().axes)
    assert KINDS[3] not in {line.get_color() for ax in fig.axes for line in ax.lines}


def test_a_loss_that_lacks_something_says_so_on_empty_axes():
    """The last loss's curve under another loss's name would be a wrong figure."""
    left, right = curves("exo_pair", 0.0, 0.1, 0.0).axes
    assert "exo_pair needs label" in left.texts[0].get_text()
    assert not left.lines
    assert not right.lines


def test_no_pull_has_no_sign():
    """'-0' in a title reads as a mistake."""
    _, right = curves("hinge", 2.0).axes
    assert right.get_title() == "pull +0 = beta 0.1 x weight +0"
