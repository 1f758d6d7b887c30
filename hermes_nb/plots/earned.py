"""What every token of a pair earned in training, chosen and rejected on one scale. Lesson: 03_dpo."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hermes_nb.errors import DataProblem
from hermes_nb.plots.base import NEUTRAL, WIDTH
from hermes_nb.plots.tokenized import COLUMNS, _lay_out

UP, DOWN, NONE = "#7549b1", "#e08214", "#f4f4f4"  # purple, orange: the ends of the scale PuOr, with light between
LINES = 14  # lines of a side that the picture shows; its sum counts all tokens


def heat_pair(pieces, values, stops=(False, False), title: str = "", share: float = 1.0) -> Figure:
    """The tokens of chosen and of rejected, purple where training made them likelier, orange where less likely.

    `pieces`, `values`: (chosen, rejected), texts of the tokens and one number each, such as `Looks.earned`; `stops`:
    whether the last one is the stop token, which gets a frame. Both sides have one symmetric scale; its end is `share`
    of the largest value. Raises DataProblem where texts and numbers do not fit together.
    """
    sizes = [abs(v) for side in values for v in side if abs(v) < float("inf")]
    limit = share * max([1e-9, *sizes])
    placed = []
    for name, texts, numbers in zip(("chosen", "rejected"), pieces, values, strict=True):
        if len(texts) != len(numbers):
            raise DataProblem(f"heat_pair: {len(texts)} tokens of {name}, {len(numbers)} numbers.")
        placed.append([place for place in _lay_out(texts)[0] if place[0] < LINES])
    lines = [1 + max((line for line, _, _ in side), default=0) for side in placed]
    fig = Figure(figsize=(WIDTH, 0.45 + 0.23 * (sum(lines) + 2.6)), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    ax = fig.subplots()
    ax.axis("off")
    ax.set(xlim=(0, COLUMNS), ylim=(sum(lines) + 2.6, 0))
    end = (
        f"purple: likelier, orange: less likely, full colour at \u00b1{limit:.2g}"
        if limit > 2e-9
        else "all tokens are 0"
        if len(sizes) == sum(map(len, values))
        else "tokens without a number"
    )
    ax.set_title(
        f"{title}   {end}; framed: stop token".strip(), fontsize=10, loc="left", color=NEUTRAL, parse_math=False
    )
    heads = [
        f"{name}: sum {figure_of(sum(side), 2)}" for name, side in zip(("chosen", "rejected"), values, strict=True)
    ]
    _side(ax, 0.3, heads[0], pieces[0], values[0], placed[0], limit, stops[0])
    _side(ax, lines[0] + 1.6, heads[1], pieces[1], values[1], placed[1], limit, stops[1])
    return fig


def figure_of(value: float, digits: int = 3) -> str:
    """A number with its sign, such as `+0.123`, or `no number` for NaN, which a run that blew up has."""
    return f"{value:+.{digits}f}" if value == value else "no number"


def _side(ax, top: float, head: str, pieces, values, places, limit: float, stop: bool) -> None:
    """One side: its heading and its tokens, from line `top` on."""
    more = len(pieces) - len(places)
    ax.text(0, top + 0.4, head + (f", and {more} more tokens" if more else ""), va="center", color=NEUTRAL, fontsize=10)
    for at, ((line, column, shown), value) in enumerate(zip(places, values, strict=False)):
        colour = _mix(value / limit)
        framed = {"edgecolor": NEUTRAL, "linewidth": 3.2} if stop and at == len(pieces) - 1 else {"edgecolor": "none"}
        corner = column + 0.05, top + 1 + line + 0.06
        ax.add_patch(Rectangle(corner, len(shown) - 0.1, 0.88, facecolor=colour, **framed))
        style = {"family": "monospace", "fontsize": 9, "va": "center", "color": "#202020", "parse_math": False}
        ax.text(column, top + 1.5 + line, shown, **style)


def _mix(share: float) -> tuple:
    """Light for 0 to 70 % of the colour for 1 and -1, so that dark text reads on it; no number is as 0."""
    strength = 0.7 * min(1.0, abs(share)) if share == share else 0.0
    return tuple(strength * np.array(to_rgb(UP if share > 0 else DOWN)) + (1 - strength) * np.array(to_rgb(NONE)))
