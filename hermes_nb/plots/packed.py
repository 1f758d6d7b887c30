"""What a batch of pairs looks like to the model: padded sides, or one packed row and who sees whom. Lesson: 03_dpo."""

import itertools

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hermes_nb.plots.base import CHOSEN, GREY, MARGIN, NEUTRAL, REJECTED, figure, legend

EMPTY, PROMPT, AGAIN = "#F0E442", GREY, "#C8C8C8"
PARTS = {"prompt": PROMPT, "prompt, again": AGAIN, "chosen": CHOSEN, "rejected": REJECTED, "padding": EMPTY}


def padded(pairs: list[tuple[int, int, int]]) -> np.ndarray:
    """Numbers into `PARTS` of a padded batch, chosen sides above rejected ones; `pairs` are tokens of the parts."""
    width = max(p + max(c, r) for p, c, r in pairs)
    grid = np.full((2 * len(pairs), width), 4)
    for i, (prompt, *answers) in enumerate(pairs):
        for side, answer in enumerate(answers):
            row = i + side * len(pairs)
            grid[row, :prompt] = side
            grid[row, prompt : prompt + answer] = 2 + side
    return grid


def packed(pairs: list[tuple[int, int, int]]):
    """Parts (L,) and mask (L, L) of the packed row of the same pairs: what each of its tokens sees in training."""
    import torch

    from hermes_nb.packing import mask, pack

    ids = torch.from_numpy(padded(pairs))
    answers = (ids == 2) | (ids == 3)
    labels = torch.where(answers, ids, torch.full_like(ids, -100))
    shared = ids.where(ids != 1, torch.zeros_like(ids))  # both sides have one prompt
    row = pack(shared, (ids != 4).long(), labels)
    return row.ids[0].numpy(), mask(row.block)[0, 0].numpy()


def packed_rows(pairs: list[tuple[int, int, int]]) -> Figure:
    """Left, TRL's padded batch of `pairs` (tokens of prompt, chosen, rejected); right, the packed row and its mask.

    In the mask a line is a token and a coloured cell one that it sees, coloured by the part that is seen. An answer's
    first cell is the prompt's last token, laid once before each answer, because it predicts the first word of both.
    """
    fig, (left, right) = figure(2, height=4.2)
    colours = ListedColormap(list(PARTS.values()))
    grid, (parts, seen) = padded(pairs), packed(pairs)
    left.imshow(grid, cmap=colours, vmin=0, vmax=4, aspect="auto", interpolation="nearest")
    left.set(title=f"padded: {grid.size} places computed", xlabel="token", ylabel="side of a pair")
    left.set_yticks(range(len(grid)))
    image = np.where(seen, parts[None], -1).astype(float)
    image[image < 0] = np.nan
    right.imshow(image, cmap=colours, vmin=0, vmax=4, interpolation="nearest")
    right.set(title=f"packed: {len(parts)} places computed", xlabel="sees this token", ylabel="token of the one row")
    for ax in (left, right):
        ax.grid(False)
        ax.title.set_fontsize(10)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour in PARTS.values()]
    fig.legend(handles, PARTS, loc="outside lower center", ncols=5, frameon=False, fontsize=9, labelcolor=NEUTRAL)
    return fig


def engines(runs: dict) -> Figure:
    """The same training computed in several ways: margin over steps, and over seconds.

    `runs` are tidy frames by name, each with the metrics `margin` and `seconds` of the split `train`.
    """
    fig, (steps, seconds) = figure(2)
    styles = itertools.cycle(((CHOSEN, "-"), (REJECTED, "--"), (MARGIN, ":")))
    for (name, table), (colour, style) in zip(runs.items(), styles, strict=False):
        own = table[table.split == "train"]
        margin, time = (own[own.metric == m].set_index("step")["value"] for m in ("margin", "seconds"))
        steps.plot(margin.index, margin, style, color=colour, label=name)
        seconds.plot(time[margin.index], margin, style, color=colour, label=name)
    steps.set(xlabel="step", ylabel="margin", title="the same curve ...")
    seconds.set(xlabel="seconds", title="... in less time")
    legend(steps)
    return fig
