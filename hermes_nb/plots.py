"""Figures of a run, each a pure function that returns a `matplotlib.figure.Figure`. Lessons: 00_tour, 03_dpo.

Colours are those of Okabe and Ito (2008), told apart by colour-blind eyes; lines differ in style as well.
"""

import textwrap

from matplotlib.figure import Figure

from hermes_nb import history

CHOSEN, REJECTED, MARGIN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
WIDTH = 9.0  # inches; fits a Colab column
NEUTRAL = "#808080"  # text and axes: readable on white and on black


def figure(columns: int = 1, height: float = 3.0):
    """A figure with `columns` axes that reads on light and dark pages: transparent, grey text, few lines."""
    fig = Figure(figsize=(WIDTH, height), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    axes = fig.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.patch.set_alpha(0.0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(NEUTRAL)
        ax.tick_params(colors=NEUTRAL, labelsize=9)
        ax.xaxis.label.set_color(NEUTRAL)
        ax.yaxis.label.set_color(NEUTRAL)
        ax.title.set_color(NEUTRAL)
        ax.grid(alpha=0.25, linewidth=0.5)
    return fig, axes


def _legend(ax, **kwargs):
    legend = ax.legend(frameon=False, fontsize=9, labelcolor=NEUTRAL, **kwargs)
    return legend


def _draw(ax, table, metric: str, **style):
    line = history.series(table, metric)
    ax.plot(line.index, line.values, **style)


def curves(table, steps: int | None = None) -> Figure:
    """Curves of one stage from its tidy history: SFT's loss, or DPO's loss, rewards and margin.

    `steps` fixes the width of the step axis while training runs.
    """
    if "margin" not in set(table.metric):
        fig, (ax,) = figure(1)
        _draw(ax, table, "loss", color=CHOSEN)
        ax.set(xlabel="step", ylabel="loss (nats a token)", title="SFT: loss on the answers' tokens")
        axes = [ax]
    else:
        fig, axes = figure(3)
        _draw(axes[0], table, "loss", color=CHOSEN)
        axes[0].axhline(0.6931, color=NEUTRAL, linestyle=":", linewidth=1)
        axes[0].text(0.99, 0.69, "ln 2", transform=axes[0].get_yaxis_transform(), color=NEUTRAL, ha="right", va="top")
        axes[0].set(xlabel="step", ylabel="loss", title="DPO loss")
        _draw(axes[1], table, "reward_chosen", color=CHOSEN, label="chosen")
        _draw(axes[1], table, "reward_rejected", color=REJECTED, linestyle="--", label="rejected")
        axes[1].axhline(0, color=NEUTRAL, linewidth=0.8)
        axes[1].set(xlabel="step", ylabel="reward (nats x beta)", title="Rewards")
        _legend(axes[1])
        _draw(axes[2], table, "margin", color=MARGIN)
        axes[2].axhline(0, color=NEUTRAL, linewidth=0.8)
        axes[2].set(xlabel="step", ylabel="chosen - rejected", title="Reward margin")
    if steps:
        for ax in axes:
            ax.set_xlim(0, steps)
    return fig


STYLES = (
    ("card", "card (house style)", CHOSEN),
    ("padded", "padded style", REJECTED),
    ("stops", "ends by itself", MARGIN),
)


def behaviour(summaries: dict) -> Figure:
    """Bars of what models write: name to a summary of `evaluate.summary`, with 95 % intervals."""
    fig, (ax,) = figure(1, 3.2)
    width = 0.8 / len(STYLES)
    for k, (key, label, colour) in enumerate(STYLES):
        for i, s in enumerate(summaries.values()):
            value, low, high = (s[key][part] for part in ("value", "low", "high"))
            at = i + (k - (len(STYLES) - 1) / 2) * width
            ax.bar(at, value, width * 0.92, color=colour, alpha=0.85, label=label if i == 0 else None)
            ax.errorbar(
                at, value, [[max(0, value - low)], [max(0, high - value)]], color=NEUTRAL, capsize=3, linewidth=1
            )
            ax.text(at, min(1.02, high + 0.03), f"{value:.0%}", ha="center", fontsize=8, color=NEUTRAL)
    names = [f"{name}\nn = {s['card']['n']}" for name, s in summaries.items()]
    ax.set_xticks(range(len(names)), names)
    ax.set(ylim=(0, 1.15), ylabel="share of sampled answers")
    ax.set_title("What each model writes at temperature 1 (whiskers: 95 % interval)")
    _legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    return fig


def sizes(parameters: dict, megabytes: dict) -> Figure:
    """Log bars: parameters trained against frozen, and MB on disk; both name to number."""
    fig, axes = figure(2, 2.2)
    for ax, data, unit in ((axes[0], parameters, "parameters"), (axes[1], megabytes, "MB on disk")):
        ax.barh(list(data), list(data.values()), color=[GREY, CHOSEN, MARGIN][: len(data)], log=True)
        ax.invert_yaxis()
        ax.set(xlabel=f"{unit} (log scale)", xlim=(None, 8 * max(data.values())))
        for i, value in enumerate(data.values()):
            shown = f"{value / 1e6:.1f} M" if unit == "parameters" else f"{value:.0f} MB"
            ax.text(value * 1.15, i, shown, va="center", fontsize=9, color=NEUTRAL)
    return fig


KINDS = (CHOSEN, MARGIN, REJECTED, "#CC79A7")


def margins(values: list[float], kinds: list[str], names: dict) -> Figure:
    """Histogram of held-out margins, stacked by kind of pair (`names`: kind to label); a line marks the start, 0."""
    fig, (ax,) = figure(1, 3.4)
    groups = [[m for m, k in zip(values, kinds, strict=True) if k == kind] for kind in names]
    ax.hist(groups, bins=24, stacked=True, label=list(names.values()), color=KINDS[: len(groups)])
    ax.axvline(0.0, color=NEUTRAL, linestyle=":", label="before DPO: all at 0, by definition")
    ax.set(
        xlabel="reward margin (chosen - rejected)", ylabel="held-out pairs", title="Margins of pairs never trained on"
    )
    _legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return fig


def answers(columns: dict, question: str, width: int = 34) -> Figure:
    """One question, the answers of several models side by side; `columns` is model name to text."""
    wrapped = {name: _wrap(text, width) for name, text in columns.items()}
    rows = max(len(lines) for lines in wrapped.values())
    fig = Figure(figsize=(WIDTH, 0.7 + 0.155 * rows), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    fig.suptitle(question, fontsize=10, color=NEUTRAL, parse_math=False)
    for ax, (name, lines) in zip(fig.subplots(1, len(wrapped), squeeze=False)[0], wrapped.items(), strict=True):
        ax.axis("off")
        ax.set_title(name, fontsize=10, loc="left", color=CHOSEN, fontweight="bold", parse_math=False)
        ax.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, color=NEUTRAL, family="sans-serif", parse_math=False)
    return fig


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in (textwrap.wrap(part, width) or [""])]
