"""Merged models measured: memory while it happens, candidates beside the trained model, two bases. Lesson: 04_merge."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from hermes_nb.plots.base import CHOSEN, MARGIN, NEUTRAL, REJECTED, figure


def memory_curve(told: dict, limit: float, limit_name: str) -> Figure:
    """Memory while a model is merged tensor by tensor, under what the whole model takes and what a machine has.

    `told` is what `bench.merge` returns: its `curve` of (seconds, GB, bytes written) is the merge onto the original
    base; `limit` is in GB (10^9 bytes).
    """
    seconds, gb, done = (np.asarray(part, dtype=float) for part in zip(*told["curve"], strict=True))
    whole = 2 * told["parameters"] / 1e9
    fig, (ax,) = figure(1, 3.2)
    ax.fill_between(seconds, gb, color=MARGIN, alpha=0.3)
    ax.plot(seconds, gb, color=MARGIN, linewidth=2)
    said = f"our merge: at most {told['sides']['original']['gb']:.2f} GB, {done[-1] / 1e9:.1f} GB written"
    ax.annotate(
        said, (seconds[len(seconds) // 2], gb.max()),
        xytext=(0, 8), textcoords="offset points", ha="center", fontsize=10, color=MARGIN,
    )  # fmt: skip
    for height, name, colour, style in (
        (limit, f"{limit_name}: {limit:g} GB", CHOSEN, "--"),
        (whole, f"the whole model in 16 bits: {whole:.1f} GB", REJECTED, "-."),
    ):
        ax.axhline(height, color=colour, linestyle=style)
        ax.text(seconds[-1], height + 0.15, name, ha="right", va="bottom", fontsize=9, color=colour)
    ax.set(
        xlim=(0, seconds[-1]), ylim=(0, 1.15 * max(whole, limit)), xlabel="seconds", ylabel="memory, GB (10^9 bytes)"
    )
    return fig


def candidates(told: dict) -> Figure:
    """Merged candidates beside the trained model: distance, likeliest token, reward accuracy, answers that end.

    `told` is what `merge.compare` returns. KL is in nats a token; whiskers are 95 % intervals.
    """
    found, trained = told["candidates"], told["trained"]
    names = ["base and adapter", *found, "no adapter"]
    fig, axes = figure(4, 1.2 + 0.42 * len(names))
    far = {name: max(one["kl"], 1e-9) for name, one in found.items()} | {"no adapter": told["kl_without_adapter"]}
    away = {name: 1 - one["top1"] for name, one in found.items()}
    for ax, values, form in ((axes[0], far, "{:.1e}"), (axes[1], away, "{:.1%}")):
        for name, value in values.items():
            ax.barh(names.index(name), value, 0.6, color=REJECTED if name == "no adapter" else CHOSEN)
            ax.text(value, names.index(name), f" {form.format(value)}", va="center", fontsize=8, color=NEUTRAL)
    axes[0].set(xscale="log", xlim=(min(far.values()) / 4, 200 * max(far.values())), xlabel="nats a token (log)")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[1].set(xlim=(0, 1.8 * max(*away.values(), 1e-3)), xlabel="share of the tokens")
    for ax, key in ((axes[2], "accuracy"), (axes[3], "stops")):
        _rates(ax, names, {"base and adapter": trained[key]} | {name: one[key] for name, one in found.items()})
        ax.set_xlabel(f"of {trained[key]['n']} {'pairs' if key == 'accuracy' else 'answers'}")
    for ax in axes[1:]:
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    titles = ("KL from trained", "Likeliest token differs", "Reward accuracy", "Ends by itself")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_title(title, fontsize=10)
        ax.tick_params(labelsize=8)
    return fig


def _rates(ax, names: list[str], rates: dict) -> None:
    """Bars with whiskers, and a line at the trained model's value."""
    for name, rate in rates.items():
        ax.barh(names.index(name), rate["value"], 0.6, color=MARGIN, alpha=0.85)
        error = [[rate["value"] - rate["low"]], [rate["high"] - rate["value"]]]
        ax.errorbar(rate["value"], names.index(name), xerr=np.maximum(error, 0), color=NEUTRAL, capsize=3, linewidth=1)
    ax.axvline(rates["base and adapter"]["value"], color=NEUTRAL, linestyle=":", linewidth=1)
    ax.set_xlim(0, 1.02)


def two_distances(told: dict) -> Figure:
    """KL from the trained model of merges onto both bases, for a small and a large delta, beside the bare base.

    `told` is the experiment `merge_bases`: `rows` and `rows_strong` of `model, onto, dtype, seed, kl, accuracy_own`.
    """
    fig, (left, right) = figure(2, 3.4)
    deltas = {
        "rows": f"delta {told['sizes']['small']['delta']['median']:.1%}",
        "rows_strong": f"delta {told['sizes']['small']['delta_strong']['median']:.1%}",
    }
    sides = (("dequantized", CHOSEN, "o"), ("original", REJECTED, "D"), ("base", NEUTRAL, "x"))
    for place, key in enumerate(deltas):
        for shift, (side, colour, mark) in enumerate(sides):
            rows = [r for r in told[key] if _side(r) == side]
            style = {"linestyle": "", "marker": mark, "color": colour, "markersize": 7, "alpha": 0.8}
            at = [place + 0.2 * (shift - 1)] * len(rows)
            name = "the bare base" if side == "base" else f"onto the {side} base"
            left.plot(at, [r["kl"] for r in rows], label=None if place else name, **style)
            if side != "base":  # its margin is 0 by definition
                right.plot(at, [r["accuracy_own"] for r in rows], **style)
        trained = [r["accuracy"] for r in told[key] if r["model"] == "trained"]
        right.hlines(trained, place - 0.35, place + 0.35, color=NEUTRAL, linestyle=":", linewidth=1)
    for ax in (left, right):
        ax.set_xticks(range(len(deltas)), list(deltas.values()))
        ax.set_xlim(-0.5, 1.5)
    left.set(yscale="log", ylabel="nats a token (log)", title="KL from the trained model")
    right.set(ylabel="held-out pairs preferred rightly", title="Reward accuracy; dotted: trained")
    right.yaxis.set_major_formatter(PercentFormatter(1))
    handles, names = left.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=NEUTRAL)
    return fig


def _side(row: dict) -> str:
    """`original`, `dequantized` or `base`; empty for rows that are not shown. One format stands for all."""
    if row["model"] == "merged" and row["dtype"] == "float32":
        return row["onto"]
    return "base" if row["model"] == "base" else ""
