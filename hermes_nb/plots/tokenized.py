"""Tokens as coloured boxes: what is trained, what is cut. Lessons: 01_preference_data, 02_qlora_sft."""

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hermes_nb.plots.base import CHOSEN, MARGIN, NEUTRAL, REJECTED, WIDTH, plain

COLUMNS = 104  # characters a line in a monospaced font
ROLES = {"prompt": "#B0B0B0", "trained": CHOSEN, "stop": MARGIN, "cut": REJECTED}


def _lay_out(pieces: list[str]) -> tuple[list[tuple[int, int, str]], int]:
    """(line, column, shown text) of every token; a newline token ends its line. Returns them and the line count."""
    out, line, column = [], 0, 0
    for piece in pieces:
        shown = plain(piece).replace("\n", "\u21b5").replace("\t", " ") or " "
        if column and column + len(shown) > COLUMNS:
            line, column = line + 1, 0
        out.append((line, column, shown[:COLUMNS]))
        column += len(shown)
        if piece.endswith("\n"):
            line, column = line + 1, 0
    return out, line + 1


def pale(colour) -> tuple:
    """The colour mixed with white, so that dark text reads on it, on light and on dark pages."""
    return tuple(0.45 * c + 0.55 for c in to_rgb(colour))


def _boxes(pieces: list[str], colours: list, title: str, foot: float = 0.0) -> tuple[Figure, object]:
    places, lines = _lay_out(pieces)
    fig = Figure(figsize=(WIDTH, 0.45 + foot + 0.23 * lines), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    ax = fig.subplots()
    ax.axis("off")
    ax.set(xlim=(0, COLUMNS), ylim=(lines, 0))
    ax.set_title(plain(title), fontsize=10, loc="left", color=NEUTRAL, parse_math=False)
    for (line, column, shown), colour in zip(places, colours, strict=True):
        box = Rectangle((column + 0.05, line + 0.06), len(shown) - 0.1, 0.88, facecolor=pale(colour), edgecolor="none")
        ax.add_patch(box)
        style = {"family": "monospace", "fontsize": 9, "va": "center", "color": "#202020", "parse_math": False}
        ax.text(column, line + 0.5, shown, **style)
    return fig, ax


def tokens(pieces: list[str], roles: list[str], title: str = "") -> Figure:
    """Tokens coloured by role: `prompt` (no loss), `trained`, `stop` (the stop token), `cut` (lost at max_length).

    `pieces` are the decoded texts of the tokens, `roles` one of the four for each.
    """
    fig, ax = _boxes(pieces, [ROLES[r] for r in roles], title, 0.25)
    present = [r for r in ROLES if r in roles]
    handles = [Rectangle((0, 0), 1, 1, facecolor=pale(ROLES[r])) for r in present]
    names = {"prompt": "no loss", "trained": "trained", "stop": "stop token, trained", "cut": "cut off"}
    ax.legend(
        handles, [names[r] for r in present], loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False,
        fontsize=9, labelcolor=NEUTRAL,
    )  # fmt: skip
    return fig
