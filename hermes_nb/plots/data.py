"""Rows before training: what differs, what is cut, what length and overlap give away. Lesson: 01_preference_data."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hermes_nb.plots.base import CHOSEN, GREY, KINDS, MARGIN, NEUTRAL, REJECTED, figure, legend
from hermes_nb.plots.tokenized import pale

MARKERS = "osD^v"


def lost_stops(lengths: list[tuple[int, int, int]], limit: int | None = None) -> Figure:
    """Share of pairs whose chosen, or rejected, answer loses its stop token, for every max_length."""
    fig, (ax,) = figure(1, 2.6)
    span = range(max(p for p, *_ in lengths) + 1, max(p + max(c, r) for p, c, r in lengths) + 6)
    for k, name, colour, style in ((1, "chosen", CHOSEN, "-"), (2, "rejected", REJECTED, "--")):
        share = [sum(row[0] + row[k] > at for row in lengths) / len(lengths) for at in span]
        ax.plot(span, share, color=colour, linestyle=style, label=f"{name} loses its stop token")
    if limit:
        ax.axvline(limit, color=NEUTRAL, linestyle=":", label=f"max_length {limit}")
    ax.set(xlabel="max_length (tokens)", ylabel="share of pairs", ylim=(-0.02, 1.05))
    legend(ax)
    return fig


def characters(points: dict[str, list[tuple[int, int]]], limit: int) -> Figure:
    """Characters against tokens of prompt and chosen, source to rows, with `limit` drawn on both axes."""
    fig, (ax,) = figure(1, 3.8)
    for (name, rows), colour, marker in zip(points.items(), (*KINDS, GREY), MARKERS, strict=False):
        x, y = zip(*rows, strict=True)
        ax.scatter(x, y, s=26, color=colour, marker=marker, alpha=0.75, label=name, linewidths=0)
    ax.axvline(limit, color=NEUTRAL, linestyle="--", linewidth=1)
    ax.axhline(limit, color=NEUTRAL, linestyle=":", linewidth=1)
    every = [row for rows in points.values() for row in rows]
    lost = sum(x > limit >= y for x, y in every)
    missed = sum(x <= limit < y for x, y in every)
    right, top = max(limit, *(x for x, _ in every)) * 1.04, max(limit, *(y for _, y in every)) * 1.12
    ax.set(xlim=(0, right), ylim=(0, top), xlabel="characters (prompt + chosen)", ylabel="tokens (prompt + chosen)")
    style = {"fontsize": 9, "color": NEUTRAL}
    ax.text(right * 0.99, limit * 0.97, f"would fit, thrown away: {lost}", va="top", ha="right", **style)
    ax.text(limit * 0.98, top * 0.98, f"kept, yet too long: {missed}", va="top", ha="right", **style)
    ax.set_title(f"A limit of {limit}: dashed in characters, dotted in tokens", fontsize=10)
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5)
    return fig


def safety(rows: list[dict]) -> Figure:
    """2x2 table of raw PKU-SafeRLHF rows by `is_response_0_safe` and `is_response_1_safe`; one safe answer is kept."""
    fig, (ax,) = figure(1, 2.6)
    kept = 0
    for x, first in enumerate((True, False)):
        for y, second in enumerate((True, False)):
            n = sum(r["is_response_0_safe"] == first and r["is_response_1_safe"] == second for r in rows)
            kept += n * (first != second)
            ax.add_patch(
                Rectangle((x, y), 1, 1, facecolor=pale(MARGIN if first != second else GREY), edgecolor="white")
            )
            fate = "kept" if first != second else "dropped: both safe" if first else "dropped: none safe"
            ax.text(x + 0.5, y + 0.5, f"{n}\n{fate}", ha="center", va="center", fontsize=10, color="#202020")
    ax.set(xlim=(0, 2), ylim=(2, 0), xlabel="answer 0", ylabel="answer 1")
    ax.set_xticks([0.5, 1.5], ["safe", "unsafe"])
    ax.set_yticks([0.5, 1.5], ["safe", "unsafe"])
    ax.grid(False)
    ax.set_title(f"The filter keeps rows with exactly one safe answer: {kept} of {len(rows)}", fontsize=10)
    return fig


def length_bias(lengths: dict[str, list[tuple[int, int]]]) -> Figure:
    """Histograms of chosen minus rejected, in tokens, one a source; `lengths` holds (chosen, rejected) of its pairs.

    Blue: chosen is longer, orange: rejected is, grey: equal.
    """
    fig, axes = figure(len(lengths), 2.5)
    for ax, (name, pairs) in zip(axes, lengths.items(), strict=True):
        gaps = [c - r for c, r in pairs]
        reach = max(1, max(map(abs, gaps)))
        sides = [[g for g in gaps if g > 0], [g for g in gaps if g == 0], [g for g in gaps if g < 0]]
        weights = [[1 / len(gaps)] * len(side) for side in sides]
        ax.hist(sides, bins=16, range=(-reach, reach), weights=weights, stacked=True, color=[CHOSEN, GREY, REJECTED])
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set_title(f"{name}\nn = {len(pairs)}", fontsize=9, parse_math=False)
        ax.set_xlabel("chosen − rejected\n(tokens)", fontsize=9)
    axes[0].set_ylabel("share of pairs")
    return fig


def pickers(lengths: dict[str, list[tuple[int, int]]]) -> Figure:
    """How often a rule that reads nothing names chosen: pick the longer, pick the shorter; `lengths` as there."""
    fig, (ax,) = figure(1, 0.9 + 0.42 * len(lengths))
    for row, pairs in enumerate(lengths.values()):
        longer, shorter = sum(c > r for c, r in pairs), sum(c < r for c, r in pairs)
        rules = (longer, CHOSEN, "pick the longer"), (shorter, REJECTED, "pick the shorter")
        for k, (right, colour, label) in enumerate(rules):
            at = row + 0.36 * (k - 0.5)
            ax.barh(at, right / len(pairs), 0.32, color=colour, alpha=0.85, label=label if row == 0 else None)
            ax.text(right / len(pairs) + 0.01, at, f"{right / len(pairs):.0%}", va="center", fontsize=8, color=NEUTRAL)
    ax.axvline(0.5, color=NEUTRAL, linestyle=":", label="a coin")
    ax.set_yticks(range(len(lengths)), [f"{name} (n = {len(pairs)})" for name, pairs in lengths.items()])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.1), xlabel="share of pairs where the rule names chosen")
    legend(ax, loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=3)
    return fig


def weight_meanings(sizes: dict[str, int], weight: float, limit: int) -> Figure:
    """Rows that one weight, the same for all sources, takes in three meanings; `sizes` is source to rows.

    A share of each source (alignment-handbook), a share of the mixture with nothing oversampled (TRL 1.16), a count of
    `limit` rows (ours).
    """
    part = 1 / len(sizes)  # equal weights, normalised
    total = min(size / part for size in sizes.values())
    meanings = {
        f"share of each source\n(handbook: {weight:g})": {n: int(weight * size) for n, size in sizes.items()},
        f"share of the mixture\n(TRL: {weight:g})": {n: round(part * total) for n in sizes},
        f"a count\n(here: limit {limit:,})": {n: min(limit, size) for n, size in sizes.items()},
    }
    fig, (ax,) = figure(1, 2.6)
    for row, taken in enumerate(meanings.values()):
        left, whole = 0, sum(taken.values())
        for (name, n), colour in zip(taken.items(), KINDS, strict=False):
            ax.barh(row, n, left=left, color=colour, alpha=0.85, label=name if row == 0 else None)
            ax.text(left + n / 2, row, f"{n:,}\n{n / whole:.0%}", ha="center", va="center", fontsize=8, color="white")
            left += n
    ax.set_yticks(range(len(meanings)), list(meanings))
    ax.invert_yaxis()
    ax.set(xlabel="rows in the mixture")
    legend(ax, loc="upper center", bbox_to_anchor=(0.4, -0.22), ncols=2)
    return fig


def reasons(report: dict) -> Figure:
    """Bars of an audit's report: rows kept, then rows dropped by reason."""
    bars = {"kept": report["kept"]} | report["reasons"]
    fig, (ax,) = figure(1, 0.9 + 0.28 * len(bars))
    ax.barh(list(bars), list(bars.values()), color=[MARGIN] + [REJECTED] * (len(bars) - 1), alpha=0.85)
    for at, n in enumerate(bars.values()):
        ax.text(n + 0.4, at, str(n), va="center", fontsize=9, color=NEUTRAL)
    ax.invert_yaxis()
    ax.set(xlabel="rows", xlim=(0, 1.08 * max(bars.values())))
    title = (
        f"{report['rows']} in = {report['kept']} kept + {report['dropped']} dropped, at {report['max_length']} tokens"
    )
    ax.set_title(title, fontsize=10)
    return fig
