"""Tokens a row and the words that tell the label, over whole sources. Lesson: 01_preference_data."""

from functools import cache
from itertools import cycle

from matplotlib import font_manager
from matplotlib.figure import Figure

from hermes_nb.errors import DataProblem
from hermes_nb.plots.base import CHOSEN, KINDS, NEUTRAL, REJECTED, figure, legend

BINS = 40
REACH = 4  # limits that the axis reaches; one row of 100,000 tokens would squeeze all others into one bar
LABEL = 40  # characters of a name or word that a figure shows


@cache
def _font():
    """The font that figures are drawn with, as rcParams choose it."""
    return font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))


def _shown(name: str) -> str:
    """A name or word as the figure's font can draw it: other characters as escapes, long ones cut."""
    drawn = (c if c.isprintable() and _font().get_char_index(ord(c)) else _escape(c) for c in name[: LABEL + 1])
    whole = "".join(drawn)
    return whole if len(whole) <= LABEL else whole[: LABEL - 1] + "\u2026"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _edges(limit: int, right: int) -> list[float]:
    """Edges of about 40 bins up to `right`, one of them at `limit` and a half: no bar stands on both sides of it."""
    end = limit + 0.5
    step = end / max(1, round(BINS * end / max(right, 1)))
    return [k * step for k in range(int(right / step) + 2)]


def lengths(values: dict[str, list[int]], limit: int) -> Figure:
    """Histograms of tokens a row, one line a source, the truncation line `limit`, and the share beyond it.

    `values` is source to tokens of each of its rows; a row of exactly `limit` tokens is whole. Rows longer than four
    limits stand in the last bin. What is beyond the line loses its end, and with it the stop token.
    Lesson: 01_preference_data.
    """
    fig, (ax,) = figure(1, 2.8 + 0.18 * len(values))
    longest = max((max(v) for v in values.values() if v), default=limit)
    edges = _edges(limit, min(longest, REACH * limit))
    ax.axvspan(limit + 0.5, max(edges[-1], limit * 1.05), color=REJECTED, alpha=0.1, linewidth=0)
    looks = zip(cycle(KINDS), cycle(("-", "--", "-.", ":", (0, (6, 1)))), strict=False)
    for (name, rows), (colour, line) in zip(values.items(), looks, strict=False):
        n, beyond = max(1, len(rows)), sum(tokens > limit for tokens in rows)
        label = f"{beyond / n:.1%} beyond ({beyond} of {len(rows)} rows): {_shown(name)}"
        style = {"histtype": "step", "color": colour, "linestyle": line, "linewidth": 1.6, "label": label}
        ax.hist([min(t, edges[-1]) for t in rows], edges, weights=[1 / n] * len(rows), **style)
    ax.axvline(limit + 0.5, color=NEUTRAL, linestyle=":", label=f"max_length {limit}: cut here")
    tail = f"; the last bin: all from {edges[-2]:.0f}" if longest > edges[-1] else ""
    ax.set(xlabel=f"tokens a row{tail}", ylabel="share of the source's rows")
    for entry in legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2)).get_texts():
        entry.set_parse_math(False)
    return fig


def word_rule(report: dict) -> Figure:
    """Bars of the words that tell chosen from rejected: in how many pairs a word stands in one answer only.

    `report` is an audit's of pairs; raises DataProblem for one of conversations. The title has how often such words
    alone, or lengths alone, find chosen: near 50 % is good, and far above it a model can win without reading.
    Lesson: 01_preference_data.
    """
    if "word_rule" not in report:
        raise DataProblem("this report has no word rule; audit pairs, conversations have no rejected side.")
    words, rule, longer = report["word_rule"]["words"], report["word_rule"], report["length_rule"]
    height = max(1.2, 0.36 * len(words))
    fig, (ax,) = figure(1, 1.4 + height)
    for k, (key, colour, hatch) in enumerate((("chosen_only", CHOSEN, ""), ("rejected_only", REJECTED, "//"))):
        at, n = [row + 0.36 * (k - 0.5) for row in range(len(words))], [w[key] for w in words]
        bars = ax.barh(at, n, 0.32, color=colour, alpha=0.85, hatch=hatch, edgecolor="white")
        bars.set_label(f"in {key.split('_')[0]} only")
        ax.bar_label(bars, fontsize=8, color=NEUTRAL, padding=2)
    ax.set_yticks(range(len(words)), [_shown(w["word"]) for w in words], parse_math=False)
    ax.invert_yaxis()
    ax.set_xlabel("pairs" if words else "no word stands in one answer only")
    ax.set_title(
        f"Found without reading, in {rule['n']} pairs: by words {rule['accuracy']:.0%}, by length "
        f"{longer['accuracy']:.0%} (a coin: 50%)", fontsize=10,
    )  # fmt: skip
    ax.xaxis.get_major_locator().set_params(integer=True)
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.5 / height), ncols=2)
    return fig
