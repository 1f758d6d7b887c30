"""The board of a run that grows. Run alone: python -m pytest tests/test_plots_live.py"""

import io

import numpy as np
import pytest

from hermes_nb import history, plots
from hermes_nb.plots import live

LOG = {"loss": 0.5, "rewards/chosen": 0.1, "rewards/rejected": -0.2, "rewards/margins": 0.3, "rewards/accuracies": 1.0}


def rows(steps, looks=(), **more):
    out = [r for s in range(1, steps + 1) for r in history.entries({**LOG, **more}, s)]
    for s in looks:
        for metric, value in (("margin", 0.2), ("margin_low", -0.1), ("margin_high", 0.6), ("accuracy", 0.8)):
            out.append({"step": s, "split": "looks", "metric": metric, "value": value})
    return out


def board(given, steps=10):
    made = live.Board({r["metric"] for r in given}, steps)
    made.feed(given)
    return made


def pixels(png: bytes):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), float)


def test_the_mean_of_the_last_steps_is_the_mean_of_the_last_steps():
    """Of 1, 2, 3, 4 over two: 1, 1.5, 2.5, 3.5."""
    assert live.running_mean([1, 2, 3, 4], 2).tolist() == [1.0, 1.5, 2.5, 3.5]
    assert live.running_mean([]).tolist() == []


def test_the_quick_picture_is_the_whole_figure():
    """A live curve that differs from the final one would have misled all the while."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    made = board(rows(4, looks=(0, 4)))
    made.picture()
    made.feed(rows(4, looks=(0, 4)) + rows(9)[4 * 5 :])
    quick = pixels(made.picture())
    canvas = FigureCanvasAgg(made.figure())
    canvas.draw()
    whole = np.asarray(canvas.buffer_rgba(), float)
    assert quick.shape == whole.shape
    apart = np.abs(quick - whole).max(axis=-1).mean()
    assert apart < 0.08  # of 255: order of overlaps and edges only; without the pale lines it would be 0.12


def test_a_redraw_is_much_cheaper_than_the_figure():
    """Half a second of drawing for every second of training is no dashboard."""
    import time

    made, given = board(rows(2)), rows(200)
    made.picture()
    begun = time.perf_counter()
    for k in range(5):
        made.feed(given[: 5 * (3 + k)])
        made.picture()
    quick = (time.perf_counter() - begun) / 5
    begun = time.perf_counter()
    made.kept = None
    made.picture()
    assert quick < 0.7 * (time.perf_counter() - begun)


def test_an_axis_grows_when_a_line_leaves_it():
    """A margin of 5 on an axis that ends at 0.6 cannot be seen."""
    made = board(rows(3))
    before = made.panels[2].ax.get_ylim()
    made.picture()
    made.feed(rows(3) + history.entries({**LOG, "rewards/margins": 5.0}, 4))
    assert before[1] < 5.0 < made.panels[2].ax.get_ylim()[1]
    assert made.kept is None
    assert pixels(made.picture()).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_does_not_stop_the_drawing(bad):
    """fp16 skips a step with an infinite gradient; the run goes on, and so must the picture."""
    made = board(rows(2) + history.entries({**LOG, "rewards/margins": bad}, 3))
    assert made.picture().startswith(b"\x89PNG")
    assert all(np.isfinite(p.ax.get_ylim()).all() for p in made.panels)


def test_the_band_is_that_of_the_held_out_margins_where_there_are_two_looks():
    """Low -0.1 and high 0.6 at both looks; before that, the spread of the last steps."""
    made = board(rows(4, looks=(0, 4)))
    corners = made.panels[2].artists["band"].get_paths()[0].vertices
    assert {tuple(v) for v in corners.round(6).tolist()} == {(0, -0.1), (4, -0.1), (4, 0.6), (0, 0.6)}
    assert "held-out margins" in made.foot.get_text()
    made = board(rows(2) + history.entries({**LOG, "rewards/margins": 0.9}, 3))
    corners = made.panels[2].artists["band"].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(0.5 + np.std([0.3, 0.3, 0.9]))
    assert "standard deviation" in made.foot.get_text()


def test_panels_are_those_of_the_stage():
    """SFT has no margins, DPO has four panels, and none is empty."""
    assert [p.plan.name for p in board(rows(2)).panels] == ["loss", "reward", "margin", "accuracy"]
    sft = [r for r in rows(2) if r["metric"] == "loss"]
    assert [p.plan.name for p in board(sft).panels] == ["loss"]
    more = sft + history.entries({"mean_token_accuracy": 0.5}, 2)
    assert [p.plan.name for p in board(more).panels] == ["loss", "token accuracy"]
    assert len(plots.curves(history.frame(sft)).axes) == 1


@pytest.mark.parametrize(("first", "seen"), [(0.6931, True), (1.9, False)])
def test_ln_2_is_marked_where_the_loss_starts_there(first, seen):
    """Under [sigmoid, sft] or ipo the line would be a promise that the loss does not keep."""
    made = board(history.entries({**LOG, "loss": first}, 1))
    assert [mark.get_visible() for mark in made.panels[0].marks] == [seen, seen]
    assert all(mark.get_visible() for mark in made.panels[2].marks)


def test_rows_are_taken_once():
    """A long run's rows read anew at every redraw would cost more than the drawing."""
    made, given = board(rows(2)), rows(3)
    made.feed(given)
    made.feed(given)
    assert made.data["train", "loss"][0] == [1, 2, 3]
