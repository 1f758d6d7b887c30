"""Run alone: python -m pytest tests/test_plots_merged.py"""

import pytest

from hermes_nb import widgets
from hermes_nb.plots import merged as figures

RATE = {"value": 0.9, "low": 0.7, "high": 0.97, "n": 20}


def one(kl, top1, stops=0.9):
    return {"kl": kl, "top1": top1, "accuracy": RATE, "stops": RATE | {"value": stops}}


TOLD = {
    "candidates": {"dequantized, float32": one(1e-3, 0.976), "original, float32": one(4e-2, 0.9, 0.8)},
    "trained": {"accuracy": RATE, "stops": RATE | {"value": 0.95}}, "kl_without_adapter": 1.45,
}  # fmt: skip
SIZES = {"small": {"delta": {"median": 0.0077}, "delta_strong": {"median": 0.077}}}


def middles(ax):
    return {round(p.get_y() + p.get_height() / 2, 6): p.get_width() for p in ax.patches}


def test_candidates_share_their_rows():
    """KL, top-1, accuracy and stop rate of one candidate stand on one line, whatever else was measured of it."""
    axes = figures.candidates(TOLD).axes
    names = [t.get_text() for t in axes[0].get_yticklabels()]
    assert names == ["base and adapter", "dequantized, float32", "original, float32", "no adapter"]
    assert middles(axes[0]) == {1: 1e-3, 2: 4e-2, 3: 1.45}
    assert middles(axes[1]) == pytest.approx({1: 0.024, 2: 0.1})
    assert middles(axes[2]) == {0: 0.9, 1: 0.9, 2: 0.9}
    assert middles(axes[3]) == {0: 0.95, 1: 0.9, 2: 0.8}
    assert "of 20 pairs" in axes[2].get_xlabel()


def test_a_perfect_merge_can_be_drawn():
    """Zero distance, zero disagreement and a rate of one are results too; rounding may even give a KL below 0."""
    perfect = {"x": one(-1e-10, 1.0, 1.0) | {"accuracy": RATE | {"value": 1.0, "low": 0.9, "high": 1.0}}}
    assert widgets.png(figures.candidates(TOLD | {"candidates": perfect}))


def test_the_curve_ends_where_the_merge_ended():
    """The figure's words are read from the curve: its highest point, the bytes written."""
    curve = [(0, 0.5, 1e9), (5, 0.9, 7e9), (10, 0.8, 14.5e9)]
    told = {"curve": curve, "parameters": 7.25e9, "sides": {"original": {"gb": 0.95}}}
    fig = figures.memory_curve(told, 12.7, "free Colab")
    (ax,) = fig.axes
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.5], [5, 0.9], [10, 0.8]]
    said = [t.get_text() for t in ax.texts]
    assert "our merge: at most 0.95 GB, 14.5 GB written" in said
    assert {"free Colab: 12.7 GB", "the whole model in 16 bits: 14.5 GB"} <= set(said)
    assert ax.get_ylim()[1] > 14.5


def rows(kls):
    out = [{"model": "trained", "accuracy": 0.8, "seed": 0}, {"model": "base", "kl": kls[2], "accuracy_own": 0.0}]
    for onto, kl in zip(("dequantized", "original"), kls[:2], strict=True):
        for dtype in ("float32", "bfloat16"):
            out.append({"model": "merged", "onto": onto, "dtype": dtype, "kl": kl, "accuracy_own": 0.7})
    return out


def test_each_base_has_its_mark_at_each_size_of_delta():
    """Orange is the original; a swapped pair of marks would turn the lesson round."""
    told = {"rows": rows((1e-5, 6e-3, 4e-4)), "rows_strong": rows((2e-5, 7e-3, 5e-2)), "sizes": SIZES}
    left, right = figures.two_distances(told).axes
    drawn = [(line.get_color(), line.get_xydata().tolist()) for line in left.lines]
    assert drawn == [
        (figures.CHOSEN, [[-0.2, 1e-5]]), (figures.REJECTED, [[0.0, 6e-3]]), (figures.NEUTRAL, [[0.2, 4e-4]]),
        (figures.CHOSEN, [[0.8, 2e-5]]), (figures.REJECTED, [[1.0, 7e-3]]), (figures.NEUTRAL, [[1.2, 5e-2]]),
    ]  # fmt: skip
    assert [t.get_text() for t in left.get_xticklabels()] == ["delta 0.8%", "delta 7.7%"]
    assert len(right.lines) == 4, "the bare base has no margin"


def test_every_picture_is_small():
    """A page of heavy pictures does not load on a phone."""
    told = {"rows": rows((1e-5, 6e-3, 4e-4)), "rows_strong": rows((2e-5, 7e-3, 5e-2)), "sizes": SIZES}
    for fig in (figures.candidates(TOLD), figures.two_distances(told)):
        assert len(widgets.png(fig)) < 80_000
