"""Losses of one pair over its margin, their slopes, and the two side by side with a run's pairs. Lesson: 03_dpo.

Here are those losses of TRL 1.16's DPOTrainer that need of a pair only its margin; the others need the two rewards,
lengths or the whole batch. The margin is m = beta * h in nats times beta, with h = (logp_policy - logp_reference) of
chosen less that of rejected.
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hermes_nb.errors import DataProblem
from hermes_nb.plots.base import CHOSEN, GREY, KINDS, MARGIN, NEUTRAL, REJECTED, figure, legend

LOSSES = ("sigmoid", "robust", "exo_pair", "hinge", "ipo", "discopop")
SMOOTHED = ("sigmoid", "robust", "exo_pair")  # those that label smoothing changes
REACH = 6.0  # margins drawn, each way
TAU = 0.05  # discopop_tau, TRL's and the paper's default
# what the axes hold, by loss, whatever the sliders say: loss, weight, with room for ticks below; ipo's grow with
# 1 / beta^2, so its axes are logarithmic
BOUNDS = {
    "robust": ((-7.5, 12), (-0.9, 5.8)),
    "ipo": ((-3, 1e6), (-1e6, 1e6)),
    "discopop": ((-0.9, 6.2), (-1.3, 1.3)),
}
SAME = ((-0.9, 6.2), (-0.8, 1.3))
DECADES = (-1e6, -1e4, -1e2, 0, 1e2, 1e4, 1e6)


def missing(kind: str, smoothing: float) -> str:
    """A sentence on what the loss lacks to be drawn, empty when it lacks nothing."""
    if kind == "exo_pair" and smoothing == 0:
        return "exo_pair needs label smoothing above 0: it takes the log of the smoothing, and log 0 is infinite."
    return ""


def _checked(kind: str, margin, beta: float, smoothing: float) -> np.ndarray:
    """The margins as floats; raises DataProblem when the loss is not defined."""
    if kind not in LOSSES:
        raise DataProblem(f"{kind!r} is no loss of a margin alone; choose one of {', '.join(LOSSES)}.")
    if not beta > 0:
        raise DataProblem(f"beta is {beta}; it must be above 0.")
    if not 0 <= smoothing < 0.5:
        raise DataProblem(f"label smoothing is {smoothing}; from 0.5 on, labels say nothing. Give 0 to 0.49.")
    if missing(kind, smoothing):
        raise DataProblem(missing(kind, smoothing))
    return np.asarray(margin, float)


def _sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def loss_at(kind: str, margin, beta: float = 0.1, smoothing: float = 0.0) -> np.ndarray:
    """Loss of pairs with `margin` (nats times beta, any shape); raises DataProblem where it is not defined.

    - sigmoid: -(1 - s) log sigmoid(m) - s log sigmoid(-m); DPO, https://arxiv.org/abs/2305.18290, Eq. 7; with s > 0
      conservative DPO, https://ericmitchell.ai/cdpo.pdf. TRL 1.16's own `sigmoid` leaves s out.
    - robust: (-(1 - s) log sigmoid(m) + s log sigmoid(-m)) / (1 - 2 s); rDPO, https://arxiv.org/abs/2403.00409.
    - exo_pair: KL of (sigmoid(m), sigmoid(-m)) from (1 - s, s); https://arxiv.org/abs/2402.00856, Eq. 16; s > 0.
    - hinge: max(0, 1 - m); RSO's hinge-norm, https://arxiv.org/abs/2309.06657.
    - ipo: (h - 1 / (2 beta))^2; https://arxiv.org/abs/2310.12036, Eq. 17. TRL averages h over the tokens of each
      answer before this; here h = m / beta is taken as given.
    - discopop: log(1 + exp(-m)) blended with exp(-m), of which sigmoid(m / 0.05) is the share;
      https://arxiv.org/abs/2406.08414, Eq. 5.

    Lesson: 03_dpo.
    """
    m, s = _checked(kind, margin, beta, smoothing), smoothing
    right, wrong = np.logaddexp(0, -m), np.logaddexp(0, m)  # -log sigmoid(m), -log sigmoid(-m)
    if kind == "sigmoid":
        return (1 - s) * right + s * wrong
    if kind == "robust":
        return ((1 - s) * right - s * wrong) / (1 - 2 * s)
    if kind == "exo_pair":
        return _sigmoid(m) * (-right - np.log1p(-s)) + _sigmoid(-m) * (-wrong - np.log(s))
    if kind == "hinge":
        return np.maximum(0, 1 - m)
    if kind == "ipo":
        return ((m - 0.5) / beta) ** 2
    return right * _sigmoid(-m / TAU) + np.exp(-m - np.logaddexp(0, -m / TAU))


def loss_slope(kind: str, margin, beta: float = 0.1, smoothing: float = 0.0) -> np.ndarray:
    """Derivative of `loss_at` by the margin; the pull on a log-prob is beta times as large. Raises as `loss_at`.

    The gradient weight is -1 times this: for sigmoid without smoothing sigmoid(-m), DPO's Section 4. Lesson: 03_dpo.
    """
    m, s = _checked(kind, margin, beta, smoothing), smoothing
    right, wrong = _sigmoid(m), _sigmoid(-m)
    if kind == "sigmoid":
        return s * right - (1 - s) * wrong
    if kind == "robust":
        return -(s * right + (1 - s) * wrong) / (1 - 2 * s)
    if kind == "exo_pair":
        return right * wrong * (m - np.log((1 - s) / s))
    if kind == "hinge":
        return np.where(m < 1, -1.0, 0.0)
    if kind == "ipo":
        return 2 * (m - 0.5) / beta**2
    log, other = np.logaddexp(0, -m), _sigmoid(-m / TAU)
    grown = np.exp(-m - np.logaddexp(0, -m / TAU))  # exp(-m) times its share, finite for any m
    return -wrong * other - grown + (grown - log * _sigmoid(m / TAU)) * other / TAU


def loss_rest(kind: str, smoothing: float = 0.0) -> float | None:
    """The margin where the pull is gone and beyond which it turns or stays away; None where there is none.

    sigmoid and exo_pair: log((1 - s) / s); hinge: 1; ipo: 1/2, which is h = 1 / (2 beta) nats. Lesson: 03_dpo.
    """
    if kind in ("hinge", "ipo"):
        return 1.0 if kind == "hinge" else 0.5
    return float(np.log((1 - smoothing) / smoothing)) if kind in ("sigmoid", "exo_pair") and smoothing > 0 else None


def loss_facts(kind: str, margin: float, beta: float = 0.1, smoothing: float = 0.0, margins=()) -> dict:
    """Of one pair `loss`, `weight`, `pull` (beta times weight); of a run's `margins` what they teach.

    `pairs`, their `mean_loss`, the number `below` a margin of 0, and their `share` of the sum of all pulls (absolute
    values; 0 when nothing pulls). mean_loss and share are None without pairs. Raises as `loss_at`. Lesson: 03_dpo.
    """
    weight = 0.0 - float(loss_slope(kind, margin, beta, smoothing))  # a minus alone would give -0
    out = {"loss": float(loss_at(kind, margin, beta, smoothing)), "weight": weight, "pull": beta * weight}
    every = np.asarray(margins, float)
    out |= {"pairs": len(every), "below": int((every < 0).sum()), "mean_loss": None, "share": None}
    if len(every):
        pulls = np.abs(loss_slope(kind, every, beta, smoothing))
        total = float(pulls.sum())
        out["mean_loss"] = float(loss_at(kind, every, beta, smoothing).mean())
        out["share"] = float(pulls[every < 0].sum()) / total if total else 0.0
    return out


def loss_curves(
    kind: str = "sigmoid", margin: float = 0.0, beta: float = 0.1, smoothing: float = 0.0, margins=()
) -> Figure:
    """A loss over the margin, and its gradient weight and pull; one pair marked, a run's `margins` as ticks below.

    The axes stay put for each loss, so that a slider shows change; what lies beyond them is an arrow at their edge.
    A loss that lacks something (`missing`) leaves empty axes that say so. Raises as `loss_at`. Lesson: 03_dpo.
    """
    fig, (left, right) = _axes(kind)
    if missing(kind, smoothing):
        for ax, note in ((left, missing(kind, smoothing)), (right, "no loss, no pull")):
            ax.grid(False)
            place = {"transform": ax.transAxes, "ha": "center", "va": "center"}
            ax.text(0.5, 0.5, textwrap.fill(note, 38), color=NEUTRAL, fontsize=11, **place)
        return fig
    facts = loss_facts(kind, margin, beta, smoothing, margins)
    _draw_loss(left, facts, kind, margin, beta, smoothing)
    _draw_pull(right, facts, kind, margin, beta, smoothing)
    for ax in (left, right):
        _draw_run(ax, facts, margins, ax is left)
        legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.19), borderaxespad=0)
    return fig


def _axes(kind: str):
    """Figure and two empty axes whose place and bounds depend on the loss alone."""
    fig, axes = figure(2, 4.1)
    fig.set_layout_engine("none")  # placed by hand, or a legend with one row more would move them; and a fifth faster
    for ax, bounds, label in zip(axes, BOUNDS.get(kind, SAME), ("loss", "weight; pull (loss a nat)"), strict=True):
        ax.set_position((0.065 + 0.51 * (ax is axes[1]), 0.34, 0.41, 0.58))
        ax.set(xlabel="margin (nats x beta)", ylabel=label, xlim=(-REACH, REACH))
        if kind == "ipo":
            ax.set_yscale("symlog", linthresh=1.0, linscale=0.5)
            ax.set_yticks([t for t in DECADES if t >= bounds[0]])
            ax.minorticks_off()
            ax.set_ylabel(f"{label}, log scale", labelpad=0)
        elif ax is axes[0]:
            ax.yaxis.set_major_locator(MaxNLocator(7, integer=True))
        ax.set_ylim(bounds)
    return fig, axes


def _grid() -> np.ndarray:
    """Margins to draw at: the kink at 1 and the target at 1/2 are among them, and more where discopop turns."""
    return np.unique(np.concatenate([np.linspace(-REACH, REACH, 241), np.linspace(-0.5, 0.5, 101), [1 - 1e-9]]))


def _draw_loss(ax, facts: dict, kind: str, margin: float, beta: float, smoothing: float) -> None:
    """The loss over the margin, its value at the start, where nothing pulls, and the pair."""
    start = float(loss_at(kind, 0.0, beta, smoothing))
    said = "ln 2" if kind in ("sigmoid", "robust") else f"{start:.3g}"
    ax.plot(_grid(), loss_at(kind, _grid(), beta, smoothing), color=CHOSEN)
    ax.axhline(start, color=NEUTRAL, linestyle=":", linewidth=1, label=f"loss at the start: {said}")
    rest = loss_rest(kind, smoothing)
    if rest is not None and rest <= REACH:
        name = f"no pull {'from' if kind == 'hinge' else 'at'} margin {rest:.2f} = beta x {rest / beta:.3g} nats"
        ax.axvline(rest, color=NEUTRAL, linestyle="--", linewidth=1, label=name)
    _mark(ax, margin, facts["loss"], label="your pair")
    ax.set_title(f"margin {margin:+.2f} = beta x {margin / beta:+.1f} nats: loss {facts['loss']:.4g}", fontsize=11)


def _draw_pull(ax, facts: dict, kind: str, margin: float, beta: float, smoothing: float) -> None:
    """Weight and pull over the margin, and the pair on both."""
    weights = -loss_slope(kind, _grid(), beta, smoothing)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8)
    ax.plot(_grid(), weights, color=GREY, linestyle="--", zorder=3, label="gradient weight: -1 x slope of the loss")
    ax.plot(_grid(), beta * weights, color=MARGIN, label=f"pull on a log-prob: {beta:.3g} x weight")
    for value in (facts["weight"], facts["pull"]):
        _mark(ax, margin, value)
    ax.set_title(f"pull {facts['pull']:+.4g} = beta {beta:.3g} x weight {facts['weight']:+.4g}", fontsize=11)


def _mark(ax, x: float, y: float, **more) -> None:
    """The pair as a dot; as an arrow at the edge when it lies beyond the axes."""
    low, high = ax.get_ylim()
    shape = "^" if y > high else "v" if y < low else "o"
    x, y = np.clip(x, -REACH, REACH), np.clip(y, low, high)
    ax.plot([x], [y], shape, color=REJECTED, markersize=8, clip_on=False, zorder=5, linestyle="none", **more)


def _draw_run(ax, facts: dict, margins, mean: bool) -> None:
    """The run's pairs as ticks at the bottom, longer below 0; those beyond the axis at its edge."""
    if not facts["pairs"]:
        return
    every = np.clip(np.asarray(margins, float), -REACH, REACH)
    said = f"the run's {facts['pairs']} pairs: mean loss {facts['mean_loss']:.3g}"
    if not mean:
        said = f"{facts['below']} of {facts['pairs']} below 0 (long) have {facts['share']:.0%} of the pull"
    tops = np.where(np.asarray(margins, float) < 0, 0.10, 0.05)
    ax.vlines(every, 0, tops, transform=ax.get_xaxis_transform(), color=KINDS[3], linewidth=1.1, alpha=0.8, label=said)
