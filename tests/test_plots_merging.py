"""Run alone: python -m pytest tests/test_plots_merging.py"""

import numpy as np
from matplotlib.figure import Figure

from hermes_nb import widgets
from hermes_nb.plots import merging

ROWS = [
    {"dtype": dtype, "size": size, "cosine": kept}
    for dtype, line in {"float32": (1.0, 1.0), "bfloat16": (0.2, 0.64), "nf4": (0.0, 0.007)}.items()
    for size, kept in zip((1e-4, 1e-3), line, strict=True)
]


def texts(ax):
    return [t.get_text().strip() for t in ax.texts]


def test_the_sum_is_the_sum():
    """The right panel must be what the two left ones add up to."""
    fig = merging.sum_by_hand([[0.5, 0.0], [0.1, 0.2]], [[0.1, -0.3], [0.0, 0.0]])
    assert texts(fig.axes[2])[:4] == ["0.60", "-0.30", "0.10", "0.20"]


def test_bars_stand_at_the_chosen_size():
    """The slider must move the bars: 0.7 % and 64 % at 1e-3, 20 % at 1e-4; a size between goes to the nearest."""
    for size, expected in (
        (1e-3, ["100%", "64%", "0.7%"]),
        (1.2e-3, ["100%", "64%", "0.7%"]),
        (1e-4, ["100%", "20%", "0.0%"]),
    ):
        fig = merging.survival(ROWS, size)
        assert texts(fig.axes[0]) == expected
    heights = [p.get_height() for p in merging.survival(ROWS).axes[0].patches]
    assert heights == [1.0, 0.64, 0.007]


def test_each_layer_is_a_point_at_its_place():
    """A layer in the wrong place would blame the wrong one."""
    layers = [
        {"layer": "model.layers.2.mlp.up_proj", "relative_delta": 1e-3, "cosine": 0.6},
        {"layer": "model.layers.10.mlp.up_proj", "relative_delta": 1e-2, "cosine": 0.9},
    ]
    left, right = merging.survival_by_layer({"bfloat16": layers}).axes
    assert left.lines[0].get_xydata().tolist() == [[2, 0.6], [10, 0.9]]
    assert right.lines[0].get_xydata().tolist() == [[1e-3, 0.6], [1e-2, 0.9]]


def test_every_picture_is_small_and_labelled():
    """A page of heavy pictures does not load on a phone, and an axis without words says nothing."""
    some = np.random.default_rng(0).normal(0, 0.1, (64, 64))
    figures = [merging.two_bases(some, some + 0.01, some * 1e-3), merging.survival(ROWS)]
    for fig in figures:
        assert isinstance(fig, Figure)
        assert len(widgets.png(fig)) < 80_000
        assert all(ax.get_xlabel() or ax.get_ylabel() for ax in fig.axes)
