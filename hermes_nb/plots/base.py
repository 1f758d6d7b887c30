"""What all figures share: size, colours, grey text that reads on light and dark pages.

Colours are those of Okabe and Ito (2008), told apart by colour-blind eyes; lines differ in style as well.
"""

from unicodedata import category

from matplotlib.figure import Figure

CHOSEN, REJECTED, MARGIN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
WIDTH = 9.0  # inches; fits a Colab column
KINDS = (CHOSEN, MARGIN, REJECTED, "#CC79A7")
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


def legend(ax, **kwargs):
    """A legend without a frame, in grey."""
    return ax.legend(**{"frameon": False, "fontsize": 9, "labelcolor": NEUTRAL} | kwargs)


def plain(text) -> str:
    """Text of data as a figure can draw it: boxes for control codes and for lone surrogates, which cannot be drawn."""
    return "".join("\ufffd" if category(c)[0] == "C" and c not in "\n\t" else c for c in str(text))
