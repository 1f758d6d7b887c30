"""What DPO does, in pictures: margins, rewards, beta, failures against a healthy run.

Experiments are as of `lessons.experiment`; a wrong run, step or label raises DataProblem. Lesson: 03_dpo.
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from hermes_nb import history
from hermes_nb.errors import DataProblem
from hermes_nb.plots.base import CHOSEN, GREY, KINDS, MARGIN, NEUTRAL, REJECTED, figure, legend

COLOURS = (*KINDS, "#E69F00", "#56B4E9", GREY)
STYLES = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
UNIT = "(nats x beta)"


def _line(ax, table, metric: str, name: str, **style) -> None:
    """One metric of one tidy history; raises DataProblem naming the run and what it has."""
    found = history.series(table, metric)
    if not len(found):
        raise DataProblem(f"run {name!r} has no {metric}; it has {', '.join(sorted(set(table.metric)))}.")
    ax.plot(found.index, found.values, **style)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _bar(ax, at: float, rate: dict, **style) -> None:
    """A horizontal bar with its interval; the whisker is dark in a light rim, to show on any ground."""
    ax.barh(at, rate["value"], **{"height": 0.62, "alpha": 0.85} | style)
    ends = [rate["low"], rate["high"]] if np.isfinite(rate["high"]) else [rate["value"]] * 2
    rim = [withStroke(linewidth=3.2, foreground="#DDDDDD")]
    ax.plot(ends, [at, at], color="#404040", linewidth=1.4, marker="|", markersize=7, path_effects=rim)


def _rows(ax, labels) -> None:
    """Labels of horizontal bars, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)


def _below(fig, pairs: dict) -> None:
    """One legend under all axes: label to handle."""
    look = {"loc": "outside lower center", "frameon": False, "fontsize": 9, "labelcolor": NEUTRAL}
    fig.legend(list(pairs.values()), list(pairs), ncols=5 if len("".join(pairs)) < 75 else 3, **look)


def _loss(margin, smoothing: float):
    """-(1 - s) log sigmoid(m) - s log sigmoid(-m)."""
    return (1 - smoothing) * np.logaddexp(0, -margin) + smoothing * np.logaddexp(0, margin)


def failures(experiments: dict) -> Figure:
    """One row a failure against the healthy run, the first of `experiments` (label to experiment).

    Columns: margin, rewards; of sampled answers the shares that end and that are cards, and tokens (95 % intervals).
    """
    if len(experiments) < 2:
        raise DataProblem("failures: give the healthy run first, then at least one failure.")
    (healthy, good), *bad = experiments.items()
    fig, axes = figure(4 * len(bad), 0.5 + 1.9 * len(bad))
    for ax, cell in zip(axes, GridSpec(len(bad), 4, figure=fig), strict=True):
        ax.set_subplotspec(cell)
    for k, (name, found) in enumerate(bad):
        _failure(axes[4 * k : 4 * k + 4], name, found, good)
    for ax, label in zip(axes[-4:], ("step", "step", "share of answers", "tokens an answer"), strict=True):
        ax.set_xlabel(label)
    names = f"{healthy} (healthy)", "this run", "reward of chosen", "reward of rejected"
    _below(fig, dict(zip(names, axes[0].lines[:2] + axes[1].lines[:2], strict=True)))
    return fig


def _failure(row, name: str, found: dict, good: dict) -> None:
    """One row of `failures`: margin, rewards, shares, tokens."""
    margin, rewards, shares, tokens = row
    _line(margin, good["history"], "margin", "healthy", color=GREY, linestyle=":")
    _line(margin, found["history"], "margin", name, color=MARGIN)
    _line(rewards, found["history"], "reward_chosen", name, color=CHOSEN)
    _line(rewards, found["history"], "reward_rejected", name, color=REJECTED, linestyle="--")
    for ax, label in ((margin, "margin"), (rewards, "reward")):
        ax.axhline(0, color=NEUTRAL, linewidth=0.8)
        ax.set_ylabel(f"{label} {UNIT}", fontsize=8)
    margin.set_title(name, loc="left", fontsize=11, fontweight="bold", color=NEUTRAL, parse_math=False)
    for side, of, colour in ((-0.2, good, GREY), (0.2, found, MARGIN)):
        _bar(shares, 0 + side, of["sampled"]["stops"], height=0.36, color=colour)
        _bar(shares, 1 + side, of["sampled"]["card"], height=0.36, color=colour)
        _bar(tokens, 0.5 + 2.5 * side, of["sampled"]["tokens"], color=colour)
    _rows(shares, ["ends", "card"])
    _rows(tokens, ["healthy", "this"])
    shares.set_xlim(0, 1.04)


def _beta(label) -> float:
    """The beta that a label such as 0.1 or "beta 0.1" names."""
    try:
        return float(str(label).split()[-1])
    except (ValueError, IndexError) as error:
        raise DataProblem(f"betas: {label!r} names no beta; call the runs 0.01, 0.1, or 'beta 0.1'.") from error


def betas(experiments: dict) -> Figure:
    """What beta does to margin, length and distance; `experiments` is label (a beta, or text ending in one) to dict.

    Distance is reward / beta = logp_policy - logp_reference, nats an answer, mean of the last five steps.
    """
    fig, (curve, length, distance) = figure(3, 3.3)
    for k, (label, found) in enumerate(experiments.items()):
        _line(curve, found["history"], "margin", str(label), color=COLOURS[k % 7], linestyle=STYLES[k % 5])
        _bar(length, k, found["sampled"]["tokens"], color=COLOURS[k % 7])
        for metric, side, shade in (("reward_chosen", -0.2, CHOSEN), ("reward_rejected", 0.2, REJECTED)):
            moved = history.series(found["history"], metric).tail(5).mean() / _beta(label)
            distance.barh(k + side, moved, 0.36, color=shade, alpha=0.85)
    names = [f"beta {_beta(label):g}" for label in experiments]
    bars = dict(zip(("chosen answers", "rejected answers"), distance.patches[:2], strict=True))
    _below(fig, dict(zip(names, list(curve.lines), strict=True)) | bars)
    _rows(length, names)
    _rows(distance, names)
    curve.set(xlabel="step", ylabel=f"margin {UNIT}", title="Margin in training")
    length.set(xlabel="tokens an answer (95 % interval)", title="Length at temperature 1")
    distance.axvline(0, color=NEUTRAL, linewidth=0.8)
    distance.locator_params(axis="x", nbins=4)
    distance.set(xlabel="logp - logp of reference (nats)", title="Distance moved")
    return fig


def by_kind(by_kind: dict, baselines: dict, names: dict) -> Figure:
    """Held-out accuracy and margin by kind (`evaluate.preferences`), and lines at `baselines`: name to accuracy."""
    fig, (left, right) = figure(2, 1.6 + 0.5 * len(by_kind))
    for at, kind in enumerate(by_kind):
        colour = KINDS[list(names).index(kind) % len(KINDS)]
        _bar(left, at, by_kind[kind]["accuracy"], color=colour)
        _bar(right, at, by_kind[kind]["margin"], color=colour)
    marks = enumerate(baselines.items(), 1)
    lines = {f"{name}: {at:.0%}": left.axvline(at, color=NEUTRAL, linestyle=STYLES[k % 5]) for k, (name, at) in marks}
    _rows(left, [textwrap.fill(names[k], 22) + f"\nn = {by_kind[k]['accuracy']['n']}" for k in by_kind])
    _rows(right, [""] * len(by_kind))
    left.set(xlim=(0, 1.04), xlabel="share of pairs with margin above 0", title="Accuracy (whiskers: 95 %)")
    right.axvline(0, color=NEUTRAL, linewidth=0.8)
    right.set(xlabel=f"mean margin {UNIT}", title="Margin (whiskers: 95 %)")
    _below(fig, lines)
    return fig


def margin_steps(steps: dict, kinds: list[str], names: dict, step: int) -> Figure:
    """Histogram of margins at one `step` of `steps` (step to margins, same pairs); axes stay put for a slider."""
    if step not in steps:
        raise DataProblem(f"margin_steps: no step {step}; there are {', '.join(map(str, steps))}.")
    now, every = steps[step], [m for margins in steps.values() for m in margins]
    edges = np.linspace(min(-0.5, *every), max(0.5, *every), 31)
    tallest = max((np.histogram(v, edges)[0].max() for v in steps.values() if np.ptp(v) > 0), default=len(kinds))
    fig, (ax,) = figure(1, 3.4)
    groups = [[m for m, k in zip(now, kinds, strict=True) if k == kind] for kind in names]
    ax.hist(groups, bins=edges, stacked=True, label=list(names.values()), color=KINDS[: len(groups)])
    ax.axvline(0, color=NEUTRAL, linestyle=":")
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.15 * tallest), xlabel=f"reward margin {UNIT}", ylabel="pairs")
    over = f"{sum(m > 0 for m in now)} above 0" if np.ptp(now) > 0 else "all in one bar, off the axis"
    ax.set_title(f"step {step}: mean margin {np.mean(now):+.2f}; {len(now)} pairs, {over}", fontsize=11)
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
    return fig


def two_references(right: list[float], wrong: list[float]) -> Figure:
    """Margins at step 0 with the right reference (all 0, loss ln 2) and with a wrong one, on one scale."""
    fig, axes = figure(2, 3.0)
    reach = 1.08 * max(0.1, *map(abs, right), *map(abs, wrong))
    sides = ("Right: the model that training starts from", right, MARGIN), ("Wrong: another model", wrong, REJECTED)
    for ax, (title, values, colour) in zip(axes, sides, strict=True):
        loss = np.mean(_loss(np.asarray(values, float), 0.0))
        ax.hist(values, bins=np.linspace(-reach, reach, 42), color=colour)
        ax.axvline(0, color=NEUTRAL, linestyle=":")
        ax.set(xlabel=f"margin at step 0 {UNIT}", ylabel="pairs", xlim=(-reach, reach))
        ax.set_title(f"{title}\nmean margin {np.mean(values):+.3f}, mean loss {loss:.4f} (ln 2 = 0.6931)", fontsize=10)
    return fig


def stop_rates(rates: dict) -> Figure:
    """Share of answers that end by themselves: label to `{value, low, high, n}`, one bar each, 95 % intervals."""
    fig, (ax,) = figure(1, 0.9 + 0.42 * len(rates))
    for at, rate in enumerate(rates.values()):
        _bar(ax, at, rate, color=COLOURS[at % len(COLOURS)])
        ax.text(max(rate["high"], rate["value"]) + 0.02, at, f"{rate['value']:.0%}", va="center", color=NEUTRAL)
    _rows(ax, [f"{name} (n = {r['n']})" for name, r in rates.items()])
    ax.set(xlim=(0, 1.1), xlabel="share of answers that end by themselves (whiskers: 95 % interval)")
    return fig
