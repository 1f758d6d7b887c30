"""Merging: a sum of matrices, two bases, and what rounding leaves of a delta. Lesson: 04_merge."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from hermes_nb.plots.base import CHOSEN, GREY, MARGIN, NEUTRAL, REJECTED, WIDTH, figure, legend

STYLE = {"float32": (GREY, "-", "o"), "float16": (MARGIN, "-", "s"), "bfloat16": (CHOSEN, "--", "D"),
         "nf4": (REJECTED, ":", "^")}  # fmt: skip
NAMES = {"float32": "fp32, 32 bits", "float16": "fp16, 16 bits", "bfloat16": "bf16, 16 bits", "nf4": "NF4, 4 bits"}


def sum_by_hand(weight, delta) -> Figure:
    """W, the delta and their sum as coloured numbers; two matrices (rows, columns) of a few entries each."""
    weight, delta = np.asarray(weight, dtype=float), np.asarray(delta, dtype=float)
    limit = max(np.abs(weight).max(), np.abs(weight + delta).max())
    fig = Figure(figsize=(WIDTH, 2.6), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    parts = {"W, frozen": weight, "(alpha / r) B A, trained": delta, "merged": weight + delta}
    for ax, sign, (name, values) in zip(fig.subplots(1, 3), ("", "+", "="), parts.items(), strict=True):
        ax.imshow(values, cmap="PuOr", vmin=-2 * limit, vmax=2 * limit)  # half the scale: black numbers read on it
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color="#202020")
        ax.set_title(name, fontsize=10, color=NEUTRAL)
        ax.text(-0.12, 0.5, sign, transform=ax.transAxes, ha="right", va="center", fontsize=20, color=NEUTRAL)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return fig


def two_bases(original, dequantized, delta, shown: int = 24) -> Figure:
    """One layer in two forms: some of its weights as stored and after NF4, and how large that error and the delta are.

    Three arrays of one shape, (out, in).
    """
    original, dequantized, delta = (np.asarray(a, dtype=float).ravel() for a in (original, dequantized, delta))
    fig, (left, right) = figure(2, 3.3)
    at = np.arange(shown)
    left.vlines(at, original[:shown], dequantized[:shown], color=NEUTRAL, linewidth=1)
    left.plot(at, original[:shown], "o", color=CHOSEN, label="original")
    left.plot(at, dequantized[:shown], "D", color=REJECTED, markersize=5, label="dequantized NF4")
    left.axhline(0, color=NEUTRAL, linewidth=0.6)
    left.set(xlabel=f"the first {shown} weights of the layer", ylabel="value", title="Two bases")
    legend(left, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    sizes = {"NF4's error": (np.abs(dequantized - original), REJECTED, "-"), "the delta": (np.abs(delta), CHOSEN, "--")}
    edges = np.logspace(-7, 0, 57)
    for name, (values, colour, line) in sizes.items():
        counts = np.histogram(values, edges)[0] / len(values)
        right.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
        right.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.5, label=name)
    right.set(xscale="log", xlabel="size of one entry (log scale)", ylabel="share of the entries", xlim=(1e-7, 1))
    right.set_title("Which is larger?")
    right.yaxis.set_major_formatter(PercentFormatter(1))
    legend(right, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return fig


def survival(rows: list[dict], size: float = 1e-3) -> Figure:
    """How much of the delta's direction each format keeps: bars at the relative `size` nearest to one measured, curves.

    `rows` are those of `merge.survival.ladder`: `dtype, size, cosine`.
    """
    sizes = sorted({row["size"] for row in rows})
    size = min(sizes, key=lambda s: abs(np.log(s / size)))
    kinds = list(dict.fromkeys(row["dtype"] for row in rows))
    fig, (left, right) = figure(2, 3.2)
    for i, kind in enumerate(kinds):
        colour, line, mark = STYLE[kind]
        mine = {row["size"]: row["cosine"] for row in rows if row["dtype"] == kind}
        left.bar(i, mine[size], 0.65, color=colour)
        share = f"{mine[size]:.1%}" if mine[size] < 0.0995 or 0.995 <= mine[size] < 0.9995 else f"{mine[size]:.0%}"
        left.text(i, max(0, mine[size]) + 0.02, share, ha="center", fontsize=11, fontweight="bold", color=colour)
        right.plot(
            sizes, [mine[s] for s in sizes], linestyle=line, marker=mark, markersize=4, color=colour, label=NAMES[kind]
        )
    left.set_xticks(range(len(kinds)), [NAMES[kind].replace(", ", "\n") for kind in kinds])
    left.set(ylim=(0, 1.12), ylabel="direction kept (cosine)", title=f"A delta {_power(size)} the size of the weights")
    right.axvline(size, color=NEUTRAL, linewidth=1)
    right.set(xscale="log", ylim=(0, 1.12), xlabel="size of the delta / size of the weights (log scale)")
    right.set_title("Smaller deltas fall through the grid")
    for ax in (left, right):
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    legend(right, loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=len(kinds), columnspacing=1.0, fontsize=8)
    return fig


def _power(size: float) -> str:
    return f"1/{1 / size:,.0f}" if size < 1 else f"{size:g} times"


def survival_by_layer(rows: dict) -> Figure:
    """Direction kept in each layer, against the layer's number and against its delta's size.

    `rows` is number format to the rows of `merge.survival.by_layer`.
    """
    fig, (left, right) = figure(2, 3.2)
    for dtype, layers in rows.items():
        colour, _, mark = STYLE[dtype]
        kept = [row["cosine"] for row in layers]
        style = {"linestyle": "", "marker": mark, "markersize": 3.5, "color": colour, "alpha": 0.75}
        left.plot([_number(row["layer"]) for row in layers], kept, label=NAMES[dtype], **style)
        right.plot([row["relative_delta"] for row in layers], kept, label=NAMES[dtype], **style)
    left.set(xlabel="layer (each point: one linear layer)", ylabel="direction kept (cosine)", title="Through the model")
    right.set(xscale="log", xlabel="size of the delta / size of the weights (log scale)", title="Against its size")
    ends = np.log10([row["relative_delta"] for layers in rows.values() for row in layers if row["relative_delta"]])
    right.set_xlim(10 ** np.floor(ends.min()), 10 ** np.ceil(ends.max() + 1e-9))
    right.xaxis.set_minor_formatter(NullFormatter())  # over one decade matplotlib would label them, one on another
    for ax in (left, right):
        ax.set_ylim(0, 1.05)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    legend(left, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(rows))
    return fig


def _number(layer: str) -> int:
    """The first number in a module's name; -1 where there is none."""
    return next((int(part) for part in layer.split(".") if part.isdigit()), -1)
