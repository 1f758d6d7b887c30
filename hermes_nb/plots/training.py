"""Margins of a training run. Lesson: 03_dpo."""

from matplotlib.figure import Figure

from hermes_nb.plots.base import KINDS, NEUTRAL, figure, legend


def margins(values: list[float], kinds: list[str], names: dict) -> Figure:
    """Histogram of held-out margins, stacked by kind of pair (`names`: kind to label); a line marks the start, 0."""
    fig, (ax,) = figure(1, 3.4)
    groups = [[m for m, k in zip(values, kinds, strict=True) if k == kind] for kind in names]
    ax.hist(groups, bins=24, stacked=True, label=list(names.values()), color=KINDS[: len(groups)])
    ax.axvline(0.0, color=NEUTRAL, linestyle=":", label="before DPO: all at 0, by definition")
    ax.set(
        xlabel="reward margin (chosen - rejected)", ylabel="held-out pairs", title="Margins of pairs never trained on"
    )
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return fig
