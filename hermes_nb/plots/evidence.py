"""What models write, side by side and counted; sizes. Lessons: 00_tour, 05_evaluate."""

import textwrap

from matplotlib.figure import Figure

from hermes_nb.plots.base import CHOSEN, GREY, MARGIN, NEUTRAL, REJECTED, WIDTH, figure, legend, plain

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
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
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


def answers(columns: dict, question: str, width: int = 34) -> Figure:
    """One question, the answers of several models side by side; `columns` is model name to text."""
    wrapped = {plain(name): _wrap(plain(text), width) for name, text in columns.items()}
    rows = max(len(lines) for lines in wrapped.values())
    fig = Figure(figsize=(WIDTH, 0.7 + 0.155 * rows), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    fig.suptitle(plain(question), fontsize=10, color=NEUTRAL, parse_math=False)
    for ax, (name, lines) in zip(fig.subplots(1, len(wrapped), squeeze=False)[0], wrapped.items(), strict=True):
        ax.axis("off")
        ax.set_title(name, fontsize=10, loc="left", color=CHOSEN, fontweight="bold", parse_math=False)
        ax.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, color=NEUTRAL, family="sans-serif", parse_math=False)
    return fig


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in (textwrap.wrap(part, width) or [""])]
