"""Run alone: python -m pytest tests/test_plots_packed.py"""

import numpy as np
import pytest

from hermes_nb import history, plots
from hermes_nb.plots.packed import PARTS, packed, padded

NAMES = list(PARTS)


def test_a_padded_batch_by_hand():
    """Pairs of 2 + 1 | 3 and 1 + 2 | 1 tokens: chosen sides above rejected ones, all five places wide."""
    grid = [[NAMES[i][:9] for i in row] for row in padded([(2, 1, 3), (1, 2, 1)])]
    p, again, c, r, empty = "prompt", "prompt, a", "chosen", "rejected", "padding"
    assert grid == [
        [p, p, c, empty, empty], [p, c, c, empty, empty], [again, again, r, r, r], [again, r, empty, empty, empty],
    ]  # fmt: skip


def test_the_picture_is_the_mask_that_is_trained_with():
    """Prompt 2, chosen 1, rejected 3: five tokens and the prompt's last one a second time before the other answer."""
    parts, seen = packed([(2, 1, 3)])
    assert [NAMES[i] for i in parts] == ["prompt", "prompt", "chosen", "prompt", *["rejected"] * 3]
    assert seen.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1, 1],
    ]  # fmt: skip


def test_the_titles_count_what_is_computed():
    """The point of the picture: how many places each way takes."""
    fig = plots.packed_rows([(9, 7, 4), (5, 3, 8)])
    assert [ax.get_title() for ax in fig.axes] == ["padded: 64 places computed", "packed: 38 places computed"]
    assert {t.get_text() for t in fig.legends[0].get_texts()} == set(PARTS)


@pytest.mark.parametrize("names", [("packed",), ("packed", "padded"), ("a", "b", "c", "d")])
def test_engines_are_drawn_over_steps_and_over_seconds(names):
    """A run that is left out of the picture would be taken for one that does not differ."""
    rows = [
        {"step": step, "split": split, "metric": metric, "value": float(step * times)}
        for step in (1, 2, 3) for split in ("train", "held_out") for metric, times in (("margin", 1), ("seconds", 2))
    ]  # fmt: skip
    fig = plots.engines({name: history.frame(rows) for name in names})
    steps, seconds = fig.axes
    assert len(steps.lines) == len(seconds.lines) == len(names)
    assert np.allclose(steps.lines[0].get_xdata(), [1, 2, 3])
    assert np.allclose(seconds.lines[0].get_xdata(), [2, 4, 6])
