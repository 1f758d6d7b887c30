"""Two drawings: how preference tuning came about, and the road of this course with its files. Lesson: 00_tour."""

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from hermes_nb.plots.base import CHOSEN, GREY, MARGIN, NEUTRAL, REJECTED, WIDTH

INK = "#202020"  # dark text on pale boxes: reads on white and on black pages
PURPLE = "#CC79A7"

# a box of `story`: (left, bottom, width, height) in tenths of an inch, colour, title, lines, models held at once
BOXES = {
    "pretraining": (
        (0, 20.5, 15, 15), GREY, "Pretraining", "predict the next token\ndata: plain text,\nbillions of tokens",
        (("model", True),),
    ),
    "sft": (
        (18.5, 20.5, 16.5, 15), CHOSEN, "SFT",
        "imitate good answers\nstep 1 of InstructGPT\n2022, arXiv 2203.02155\ndata: conversations", (("model", True),),
    ),
    "reward": (
        (39.5, 28.5, 18.5, 12.5), REJECTED, "Reward model",
        "learn a score for answers\n2017, arXiv 1706.03741\ndata: pairs, better / worse", (("reward model", True),),
    ),
    "ppo": (
        (61.5, 28.5, 28, 12.5), REJECTED, "PPO", "write answers, score them, adjust; repeat\n2017, arXiv 1707.06347\n"
        "data: prompts", (("policy", True), ("value", True), ("reference", False), ("reward", False)),
    ),
    "dpo": (
        (39.5, 9.5, 50, 12.5), MARGIN, "DPO",
        "no reward model, nothing sampled: the gain over the reference is the reward\n2023, arXiv 2305.18290\n"
        "data: pairs, better / worse", (("policy", True), ("reference", False)),
    ),
}  # fmt: skip
ARROWS = (((15, 28), (18.5, 28)), ((35, 30.5), (39.5, 34.5)), ((35, 25), (39.5, 18)), ((58, 34.5), (61.5, 34.5)))
# a stop of `road`: title, colour, module, where the files lie, notebook
STOPS = (
    ("raw rows", GREY, "formats", "file or hub", "01"),
    ("pairs", GREY, "audit\ntemplates", "format/rows/", "01"),
    ("SFT adapter", CHOSEN, "sft", "sft/adapter/", "02"),
    ("DPO adapter", MARGIN, "dpo\nreference", "dpo/adapter/", "03"),
    ("merged weights", REJECTED, "merge", "merged/", "04"),
    ("evidence", PURPLE, "generate\nevaluate", "reports/", "05"),
)


def _canvas(height: float):
    """A transparent figure whose axes count in tenths of an inch, 90 wide, upwards from the bottom."""
    fig = Figure(figsize=(WIDTH, height), dpi=96)
    fig.patch.set_alpha(0.0)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.set(xlim=(-0.3, 10 * WIDTH - 0.3 + 0.1), ylim=(0, 10 * height))
    return fig, ax


def _pale(colour) -> tuple:
    return tuple(0.3 * c + 0.7 for c in to_rgb(colour))


def _box(ax, place: tuple, colour, title: str, lines: str = "") -> None:
    left, bottom, width, height = place
    shape = FancyBboxPatch(
        (left + 0.5, bottom + 0.5), width - 1, height - 1, boxstyle="round,pad=0.5", facecolor=_pale(colour),
        edgecolor=colour, linewidth=1.2,
    )  # fmt: skip
    ax.add_patch(shape)
    ax.text(left + 0.9, bottom + height - 1, title, fontsize=10.5, fontweight="bold", color=INK, va="top")
    ax.text(left + 0.9, bottom + height - 3.6, lines, fontsize=8.5, color=INK, va="top", linespacing=1.35)


def _models(ax, left: float, bottom: float, models: tuple) -> None:
    """One small square a model held in memory: filled when it is trained, empty when it is frozen."""
    for name, trained in models:
        square = Rectangle((left, bottom), 1.4, 1.4, facecolor=INK if trained else "white", edgecolor=INK, linewidth=1)
        ax.add_patch(square)
        ax.text(left + 1.8, bottom + 0.6, name, fontsize=8.5, color=INK, va="center")
        left += 2.6 + 0.62 * len(name)


def _arrow(ax, start: tuple, end: tuple) -> None:
    style = {"arrowstyle": "-|>", "color": NEUTRAL, "linewidth": 1.6, "shrinkA": 1, "shrinkB": 1}
    ax.annotate("", xy=end, xytext=start, arrowprops=style)


def story() -> Figure:
    """Pretraining, SFT, then two ways to a preference: RLHF (reward model and PPO) or DPO, with dates and papers.

    Each box says what it does, since when, what data it needs, and which models it holds at once.
    """
    fig, ax = _canvas(4.4)
    for place, colour, title, lines, models in BOXES.values():
        _box(ax, place, colour, title, lines)
        _models(ax, place[0] + 0.9, place[1] + 0.9, models)
    for start, end in ARROWS:
        _arrow(ax, start, end)
    ax.text(
        39.5, 41.7, "RLHF (InstructGPT, 2022): three to four models in memory, and sampling", fontsize=9, color=NEUTRAL
    )
    ax.text(39.5, 22.7, "or: two models in memory, and a loss as in classification", fontsize=9, color=NEUTRAL)
    _models_key(ax, 0, 12.3)
    fit = (
        "train a small adapter beside the frozen model: LoRA, 2021, arXiv 2106.09685    \u00b7    "
        "frozen model in 4 bits: QLoRA, 2023, arXiv 2305.14314"
    )
    _box(ax, (0, 0.5, 89.5, 6.4), PURPLE, "What makes it fit on one GPU, in any of these boxes", fit)
    return fig


def _models_key(ax, left: float, bottom: float) -> None:
    for k, (fill, text) in enumerate(((NEUTRAL, "held in memory, trained"), ("none", "held in memory, frozen"))):
        up = bottom + 2.6 * (1 - k)
        ax.add_patch(Rectangle((left + 0.9, up), 1.4, 1.4, facecolor=fill, edgecolor=NEUTRAL, linewidth=1))
        ax.text(left + 2.9, up + 0.6, text, fontsize=8.5, color=NEUTRAL, va="center")


def road() -> Figure:
    """The course's road: raw rows, pairs, SFT adapter, DPO adapter, merged weights, evidence.

    Under each stop the modules that lead there, the files below `runs/NAME/`, and the notebook's number.
    """
    fig, ax = _canvas(1.75)
    first, step, width = 9.3, 13.5, 12.4
    for k, (title, colour, module, files, notebook) in enumerate(STOPS):
        left = first + k * step
        shape = FancyBboxPatch(
            (left + 0.4, 12.7), width - 0.8, 3.4, boxstyle="round,pad=0.4", facecolor=_pale(colour), edgecolor=colour
        )
        ax.add_patch(shape)
        middle = left + width / 2
        ax.text(middle, 14.4, title, fontsize=9, fontweight="bold", color=INK, ha="center", va="center")
        for up, text in ((9.4, module), (5.6, files)):
            ax.text(middle, up, text, fontsize=8.5, color=NEUTRAL, ha="center", va="center", family="monospace")
        ax.text(middle, 2, notebook, fontsize=9.5, color=NEUTRAL, ha="center", va="center", fontweight="bold")
        if k:
            _arrow(ax, (left - step + width, 14.4), (left, 14.4))
    for up, text in ((9.4, "module"), (5.6, "in runs/NAME/"), (2, "notebook")):
        ax.text(0.2, up, text, fontsize=8.5, color=NEUTRAL, va="center", style="italic")
    return fig
