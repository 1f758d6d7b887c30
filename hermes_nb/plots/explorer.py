"""Margins and rewards of held-out pairs at any look of one run or several, with one pair marked.

Runs are a dict of label to `history.Looks`. Margins are in nats times beta: of runs whose betas differ, compare signs
and order, not sizes. Lesson: 03_dpo.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from hermes_nb.history import Looks
from hermes_nb.plots.base import CHOSEN, MARGIN, NEUTRAL, REJECTED, WIDTH, figure, legend, plain
from hermes_nb.plots.picking import at, seen, shared
from hermes_nb.plots.preference import COLOURS, STYLES, UNIT

MARKERS, BARS, SHOWN = "os^DvPX", 28, 7  # SHOWN: kinds with a colour of their own


@dataclass
class _Group:
    """Points that share a look: of a kind, or of a run."""

    label: str
    rows: object
    number: int

    @property
    def colour(self):
        return COLOURS[self.number % len(COLOURS)]

    def handle(self, outlined: bool):
        """Its sign in the legend: a marker, and the line of its outline."""
        line = STYLES[self.number % len(STYLES)] if outlined else ""
        return Line2D([], [], color=self.colour, linestyle=line, marker=MARKERS[self.number % len(MARKERS)])


def _short(text) -> str:
    """A name from data as one short line that can be drawn and that a legend shows: matplotlib hides a first _."""
    line = plain(" ".join(str(text).split()))
    line = line if len(line) <= 40 else line[:39] + "\u2026"
    return f" {line}" if line[:1] == "_" else line


def _by_kind(looks: Looks, rows, names: dict) -> list[_Group]:
    """One run's pairs by kind: those of `names` first; kinds beyond the first seven are one group."""
    kinds = {p["pair"]: str(p.get("kind") or "") for p in looks.pairs}
    present = [k for k in names if k in kinds.values()] + sorted(set(kinds.values()) - set(names))
    own = present if len(present) <= SHOWN else present[: SHOWN - 1]
    mine = np.array([kinds[pair] for pair in rows.index], dtype=object)
    labels = [_short(names.get(kind, kind or "no kind")) for kind in own]
    groups = [_Group(label, rows.loc[mine == own[i]], i) for i, label in enumerate(labels)]
    if own != present:
        groups.append(_Group("other kinds", rows.loc[~np.isin(mine, own)], SHOWN - 1))
    return groups


def _by_run(runs: dict[str, Looks], step: int, tables: dict, pair: int | None) -> list[_Group]:
    """Every run's pairs, and in its name what they come to and the margin of the picked pair."""
    out = []
    for number, (label, looks) in enumerate(runs.items()):
        beta = f"{looks.beta:g}"
        # a label may name beta already, as "0.1" or "beta 0.1"; a 1 in "run 1" is none
        named = re.search(rf"beta[ =_]*{re.escape(beta)}(?![\w.])|^{re.escape(beta)}$", label, re.IGNORECASE)
        name = _short(label) + ("" if named else f" (beta {beta})")
        old = "" if at(looks, step) == step else f", of step {at(looks, step)}"
        rows = _finite(tables[label])
        mine = f"; pair {pair}: {rows.margin[pair]:+.2g}" if pair in rows.index else ""
        out.append(_Group(f"{name}: {_summary(tables[label].margin)}{old}{mine}", rows, number))
    return out


def _summary(margins) -> str:
    """Mean and how many are above 0; how many are no number, as in a run that blew up."""
    finite = margins[np.isfinite(margins)]
    lost = len(margins) - len(finite)
    said = [f"mean margin {finite.mean():+.2g}, {(finite > 0).sum()} above 0"] if len(finite) else []
    said += [f"{lost} {'pair has' if lost == 1 else 'pairs have'} no finite margin"] if lost else []
    return ", ".join(said) or "no pair"


def _finite(rows):
    """The rows that can be drawn."""
    return rows[np.isfinite(rows.margin)]


def margins_at(runs: dict[str, Looks], step: int, keep=None, pair: int | None = None, names=None) -> Figure:
    """Histogram of margins, and reward of chosen against reward of rejected, at one step; `pair` is marked in both.

    `keep`: numbers of the pairs to show, None for all; `names`: kind to label. One run is coloured by kind, several
    by run. The axes are those of all pairs and steps, so that a slider shows movement.
    """
    kept = set(shared(runs)) & set(shared(runs) if keep is None else keep)
    tables = {label: seen(looks, step) for label, looks in runs.items()}
    tables = {label: t[t.index.isin(kept)] for label, t in tables.items()}
    (label, first), *others = runs.items()
    groups = _by_run(runs, step, tables, pair) if others else _by_kind(first, _finite(tables[label]), names or {})
    fig, (left, right) = figure(2, 4.1)
    _histogram(left, runs, groups, kept, bool(others))
    _rewards(right, runs, groups)
    if pair is not None:
        _mark(left, right, [g for g in groups if pair in g.rows.index], pair, bool(others))
    alone = f"; {_summary(tables[label].margin)}" if not others else ""  # several say so in the legend
    said = alone if kept else ": none fits the filters"
    most = max(len(_finite(rows)) for rows in tables.values())
    shown = f"step {step if others else at(first, step)}: {most} of {len(first.pairs)} pairs{said}"
    fig.suptitle(shown, fontsize=11, color=NEUTRAL)
    _legend(fig, groups, bool(others))
    return fig


def _legend(fig, groups: list[_Group], runs: bool) -> None:
    """One legend under both axes, whose texts are data and no formulas, and the axes at fixed places above it.

    A constrained layout would move the axes from step to step, and takes half the time of a picture.
    """
    labels = [g.label for g in groups]
    columns = 1 if runs else len(labels) if sum(map(len, labels)) + 8 * len(labels) < 130 else 2
    look = {"loc": "lower center", "frameon": False, "fontsize": 9, "labelcolor": NEUTRAL, "ncols": columns}
    for text in fig.legend([g.handle(runs) for g in groups], labels, **look).get_texts():
        text.set_parse_math(False)
    lines = math.ceil(len(labels) / columns) + 0.9 * runs
    height = 3.75 + 0.2 * lines
    fig.set_size_inches(WIDTH, height)
    fig.set_layout_engine(None)
    for ax, left in zip(fig.axes, (0.055, 0.565), strict=True):
        ax.set_position([left, (0.6 + 0.2 * lines) / height, 0.405, 2.65 / height])


def _edges(runs: dict[str, Looks]) -> np.ndarray:
    """Edges of about 28 bars for the margins of all runs and steps, one of them at 0."""
    every = np.concatenate([[0.0], *(looks.table.margin for looks in runs.values())])
    every = every[np.isfinite(every)]
    low, high = (every.min(), every.max()) if np.ptp(every) else (-0.5, 0.5)  # at step 0 all margins are 0
    width = (high - low) / BARS
    return width * np.arange(np.floor(low / width - 1e-6), np.ceil(high / width + 1e-6) + 1)


def _tallest(runs: dict[str, Looks], edges, kept: set) -> float:
    """Height of the axis: the tallest bar of any look where margins differ, at most 2.5 times that of the last ones."""
    peaks = []
    for looks in runs.values():
        by_step = [rows.margin for _, rows in looks.table[looks.table.pair.isin(kept)].groupby("step")]
        moved = [m for m in by_step if m.nunique() > 1] or by_step  # at step 0 all margins are 0: one bar of all pairs
        peaks.append([np.histogram(m, edges)[0].max() for m in moved] or [1])
    return max(1, min(max(map(max, peaks)), 2.5 * max(p[-1] for p in peaks)))


def _histogram(ax, runs: dict[str, Looks], groups: list[_Group], kept: set, outlines: bool) -> None:
    """Stacked bars of one run's kinds, or an outline a run; a bar that the axis cuts has its count on top."""
    edges = _edges(runs)
    top = 1.15 * _tallest(runs, edges, kept)
    margins = [g.rows.margin for g in groups]
    if outlines:
        for g in groups:
            style = {"linestyle": STYLES[g.number % len(STYLES)], "color": g.colour}
            ax.hist(g.rows.margin, bins=edges, histtype="step", linewidth=1.7, **style)
    else:
        ax.hist(margins, bins=edges, stacked=True, histtype="stepfilled", color=[g.colour for g in groups])
    ax.axvline(0, color=NEUTRAL, linestyle=":")
    for heights in [np.histogram(m, edges)[0] for m in (margins if outlines else [np.concatenate(margins)])]:
        for bar in np.flatnonzero(heights > top):
            ax.text(edges[bar : bar + 2].mean(), top, f"{heights[bar]} \u2191", ha="center", color=NEUTRAL, fontsize=9)
    differ = len({looks.beta for looks in runs.values()}) > 1
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, top), ylabel="pairs")
    ax.set_xlabel(f"reward margin {UNIT}" + ("\neach run with its own beta: sizes do not compare" if differ else ""))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _rewards(ax, runs: dict[str, Looks], groups: list[_Group]) -> None:
    """Each pair as a point; below the diagonal the margin is above 0."""
    for side in ("reward_chosen", "reward_rejected"):
        every = np.concatenate([[0.0], *(looks.table[side] for looks in runs.values())])
        every = every[np.isfinite(every)]
        room = 0.06 * np.ptp(every) or 0.1
        (ax.set_xlim if side == "reward_chosen" else ax.set_ylim)(every.min() - room, every.max() + room)
    (west, east), (south, _) = ax.get_xlim(), ax.get_ylim()
    ax.fill_between([west, east], [west, east], min(west, south), color=MARGIN, alpha=0.10, linewidth=0)
    ax.axline((0, 0), slope=1, color=NEUTRAL, linestyle="--", linewidth=1)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8)
    ax.axvline(0, color=NEUTRAL, linewidth=0.8)
    for g in groups:
        style = {"marker": MARKERS[g.number % len(MARKERS)], "color": g.colour, "alpha": 0.85, "linewidth": 0}
        ax.scatter(g.rows.reward_chosen, g.rows.reward_rejected, s=26, **style)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.set(xlabel=f"reward of chosen {UNIT}", ylabel=f"reward of rejected {UNIT}")
    ax.text(
        1.02, 0.5, "shaded: margin above 0", rotation=90, va="center", color=NEUTRAL, fontsize=9, transform=ax.transAxes
    )


def _mark(left, right, groups: list[_Group], pair: int, several: bool) -> None:
    """The picked pair: a sign below the bars and a ring around the point; of several runs each has its own sign."""
    for g in groups:
        row = g.rows.loc[pair]
        if not several:
            left.axvline(row.margin, color=NEUTRAL, linewidth=1.2, zorder=0)
        sign, colour = (MARKERS[g.number % len(MARKERS)], g.colour) if several else ("^", NEUTRAL)
        left.plot([row.margin], [0], sign, markersize=10, color=colour, mec=NEUTRAL, clip_on=False, zorder=5)
        right.plot([row.reward_chosen], [row.reward_rejected], "o", markersize=13, mfc="none", mec=NEUTRAL, mew=2)
    if groups:
        one = f"\u25b2 pair {pair}: {groups[0].rows.loc[pair].margin:+.2g}"
        left.set_title(f"pair {pair}" if several else one, fontsize=10)
        right.set_title(f"\u25ef pair {pair}", fontsize=10)


def margin_over_steps(runs: dict[str, Looks], pair: int) -> Figure:
    """Margin of one pair over the steps, a line a run; of a single run the two rewards as well."""
    fig, (ax,) = figure(1, 2.3)
    for number, (label, looks) in enumerate(runs.items()):
        rows = looks.table[looks.table.pair == pair].sort_values("step")
        style = {"markersize": 5, "marker": MARKERS[number % len(MARKERS)], "linestyle": STYLES[number % len(STYLES)]}
        name, colour = (_short(label), COLOURS[number % len(COLOURS)]) if len(runs) > 1 else ("margin", MARGIN)
        ax.plot(rows.step, rows.margin, label=name, color=colour, **style)
        if len(runs) == 1:
            ax.plot(rows.step, rows.reward_chosen, "--", color=CHOSEN, label="reward of chosen")
            ax.plot(rows.step, rows.reward_rejected, "-.", color=REJECTED, label="reward of rejected")
    ax.axhline(0, color=NEUTRAL, linewidth=0.8)
    steps = sorted({s for looks in runs.values() for s in looks.steps})
    ax.xaxis.set_major_locator(FixedLocator(steps) if len(steps) < 12 else MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel=f"pair {pair} {UNIT}")
    for text in legend(ax, loc="center left", bbox_to_anchor=(1.01, 0.5)).get_texts():
        text.set_parse_math(False)
    return fig
