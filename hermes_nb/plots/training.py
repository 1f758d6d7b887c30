"""Curves and margins of a training run, from its tidy history. Lessons: 02_qlora_sft, 03_dpo."""

from matplotlib.figure import Figure

from hermes_nb import history
from hermes_nb.plots.base import CHOSEN, KINDS, MARGIN, NEUTRAL, REJECTED, figure, legend


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
        legend(axes[1])
        _draw(axes[2], table, "margin", color=MARGIN)
        axes[2].axhline(0, color=NEUTRAL, linewidth=0.8)
        axes[2].set(xlabel="step", ylabel="chosen - rejected", title="Reward margin")
    if steps:
        for ax in axes:
            ax.set_xlim(0, steps)
    return fig


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
