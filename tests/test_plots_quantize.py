"""Run alone: python -m pytest tests/test_plots_quantize.py"""

import pytest
import torch

from hermes_nb import estimate, evaluate, history, widgets
from hermes_nb.generate import Answer
from hermes_nb.models import nf4
from hermes_nb.plots import quantize


def losses(*values):
    """A tidy history of one training loss a step."""
    rows = [{"step": k, "split": "train", "metric": "loss", "value": v} for k, v in enumerate(values, 1)]
    return history.frame(rows)


def mean(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.2, "n": 60}


def summary(cards, padded, neither):
    texts = ["Short answer: x"] * cards + ["Great question!"] * padded + ["well"] * neither
    return evaluate.summary([Answer(t, True, 3) for t in texts])


@pytest.fixture(scope="module")
def weights():
    return torch.randn(64, 256, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def figures(weights):
    """Every figure of the lesson by name."""
    block = nf4.quantize_block(weights[0, :64], nf4.grid())
    runs = {n: {"history": losses(3.0, v, v), "sft_loss": mean(v)} for n, v in (("low", 2.9), ("right", 1.4))}
    small, large = estimate.SMOLLM2_135M, estimate.MISTRAL_7B
    return {
        "nf4_block": quantize.nf4_block(weights[0, :64], block.restored, nf4.grid()),
        "error_map": quantize.error_map(weights, nf4.round_trip(weights)),
        "bits_by_block": quantize.bits_by_block(nf4.trade_off(weights), 64),
        "memory_ledger": quantize.memory_ledger(
            {"small": estimate.ledgers(small, 8, 300), "large": estimate.ledgers(large, 16, 2048)}
        ),
        "lora_scale": quantize.lora_scale(305_280, {"one": (8, 16), "other": (16, 16)}, r=4, alpha=16),
        "held_out_loss": quantize.held_out_loss(losses(3.0, 2.0, 1.5), mean(2.8), mean(1.6)),
        "loss_runs": quantize.loss_runs(runs, "Two rates"),
        "moved_shares": quantize.moved_shares({"fp32": 1.0, "bf16": 0.25}),
        "mixture": quantize.mixture({"card": 0.5, "padded": 0.5}, {"base": summary(0, 1, 3), "SFT": summary(2, 1, 1)}),
    }


def texts(fig):
    """All words of a figure."""
    axes = fig.axes
    labels = [t for ax in axes for t in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.title)]
    return " ".join(t.get_text() for t in labels)


def test_every_figure_is_small_and_labelled(figures):
    """A page of heavy pictures does not load on a phone; an axis without a name says nothing."""
    for name, fig in figures.items():
        assert len(widgets.png(fig)) < 80_000, name
        assert all(ax.get_xlabel() for ax in fig.axes if ax.get_label() != "<colorbar>"), name


def test_the_block_shows_its_weights_and_their_levels(figures, weights):
    """The picture must be of this block: weights as they are, and each at a level times absmax."""
    ax = figures["nf4_block"].axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn["weight"] == pytest.approx(weights[0, :64].tolist())
    scale = weights[0, :64].abs().max().item()
    levels = [level * scale for level in nf4.grid().tolist()]
    for value in drawn["restored: the nearest level"]:
        assert min(abs(value - level) for level in levels) < 1e-6


def test_the_error_map_is_the_difference(figures, weights):
    """An error map of something else would look just as convincing."""
    shown = figures["error_map"].axes[1].images[0].get_array()
    expected = (nf4.round_trip(weights) - weights).abs()[:48, :192]
    assert torch.allclose(torch.tensor(shown), expected)


def test_the_slider_marks_its_block_size(weights):
    """The number beside the mark is that of the chosen block size: 4.125 at 256 without, 4.032 with double scales."""
    fig = quantize.bits_by_block(nf4.trade_off(weights), 256)
    assert "4.125" in texts(fig)
    assert "4.032" in texts(fig)  # 4 + 8/256 + 32/65536 = 4.0317
    assert "4.500" not in texts(fig)


def test_bars_of_the_ledger_add_up(figures):
    """Stacked parts that do not reach the printed sum hide memory."""
    ax = figures["memory_ledger"].axes[1]
    found = estimate.ledgers(estimate.MISTRAL_7B, 16, 2048)
    for k, parts in enumerate(found.values()):
        assert sum(bars[k].get_width() for bars in ax.containers) == pytest.approx(sum(parts.values()))
    assert "T4" in texts(figures["memory_ledger"])


def test_rank_and_strength_are_those_of_the_sliders(figures):
    """r = 4 and alpha = 16: strength 4, and 4 x 305,280 = 1.22 million numbers."""
    assert "alpha / r = 4" in texts(figures["lora_scale"])
    assert "r = 4: 1.22 M" in texts(figures["lora_scale"])


def test_held_out_loss_has_both_ends(figures):
    """Training loss alone cannot tell learning from learning by heart."""
    fig = figures["held_out_loss"]
    assert "2.80" in texts(fig)
    assert "1.60" in texts(fig)
    assert list(fig.axes[0].lines[0].get_ydata()) == [3.0, 2.0, 1.5]


def test_runs_are_smoothed_over_their_own_steps(figures):
    """A mean over 5 steps of (3.0, 2.9, 2.9): 3.0, 2.95, 2.933; the first steps have a shorter mean, not a gap."""
    line = figures["loss_runs"].axes[0].lines[0]
    assert list(line.get_ydata()) == pytest.approx([3.0, 2.95, 8.8 / 3])


def test_the_lost_region_is_that_of_bf16(figures):
    """The line must be where bf16 really rounds an update away: the largest lost one, checked with torch."""
    line = figures["moved_shares"].axes[1].lines[0]
    for weight, edge in zip(list(line.get_xdata())[::7], list(line.get_ydata())[::7], strict=True):
        held = torch.tensor(weight, dtype=torch.bfloat16)
        assert (held.float() + 0.98 * edge).to(torch.bfloat16) == held
        assert (held.float() + 1.02 * edge).to(torch.bfloat16) != held


def test_shares_of_the_mixture_are_complete(figures):
    """Card, padded and neither make a whole in every row; the whisker is Wilson's (2 of 4 cards: 15 to 85 %)."""
    ax = figures["mixture"].axes[0]
    bars = [b for b in ax.containers if hasattr(b, "patches")]
    ends = {}
    for bar in (b.patches[0] for b in bars):
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0.0), bar.get_x() + bar.get_width())
    assert ends == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    low, high = evaluate.interval(2, 4)
    whisker = ax.collections[-1].get_segments()[0]
    assert [whisker[0][0], whisker[1][0]] == pytest.approx([low, high])
