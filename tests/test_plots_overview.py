"""Run alone: python -m pytest tests/test_plots_overview.py"""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

import hermes_nb
from hermes_nb import widgets
from hermes_nb.plots import overview
from hermes_nb.plots.base import WIDTH

DRAWINGS = (overview.story, overview.road)


def texts(fig) -> list:
    return fig.axes[0].texts


def words(fig) -> str:
    return "\n".join(t.get_text() for t in texts(fig))


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nothing_is_cut_off_at_the_edge(draw):
    """A word beyond the edge of the picture is lost on every page."""
    fig = draw()
    assert isinstance(fig, Figure)
    assert fig.get_figwidth() == WIDTH
    widgets.png(fig)
    page = fig.bbox
    for text in texts(fig):
        box = text.get_window_extent()
        assert page.x0 <= box.x0, text.get_text()
        assert box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0, text.get_text()
        assert box.y1 <= page.y1, text.get_text()


@pytest.mark.parametrize("draw", DRAWINGS)
def test_no_two_texts_overlap(draw):
    """A longer word pushed into its neighbour makes both unreadable."""
    fig = draw()
    widgets.png(fig)
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(fig) if t.get_text()]
    for i, (one, a) in enumerate(boxes):
        for other, b in boxes[i + 1 :]:
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            assert apart, (one, other)


@pytest.mark.parametrize("draw", DRAWINGS)
def test_letters_are_large_enough_and_the_picture_is_small(draw):
    """Under 8 points nobody reads it at 9 inches; over 80 KB the notebook grows too large."""
    fig = draw()
    assert min(t.get_fontsize() for t in texts(fig)) >= 8
    assert len(widgets.png(fig)) < 80_000
    assert fig.patch.get_alpha() == 0.0


def test_the_story_counts_models_as_the_lesson_does():
    """RLHF holds up to four models, DPO two; of these PPO trains policy and value, DPO the policy alone."""
    held = {name: box[-1] for name, box in overview.BOXES.items()}
    assert [len(held[n]) for n in ("pretraining", "sft", "reward", "ppo", "dpo")] == [1, 1, 1, 4, 2]
    assert [name for name, trained in held["ppo"] if trained] == ["policy", "value"]
    assert dict(held["dpo"]) == {"policy": True, "reference": False}


def test_the_story_has_its_dates_and_papers():
    """A wrong arXiv number sends the reader to another paper."""
    shown = words(overview.story())
    for year, paper in (
        ("2022", "2203.02155"), ("2017", "1706.03741"), ("2017", "1707.06347"),
        ("2023", "2305.18290"), ("2021", "2106.09685"), ("2023", "2305.14314"),
    ):  # fmt: skip
        assert f"{year}, arXiv {paper}" in shown


def test_the_road_leads_through_modules_that_exist():
    """A map with a house that is not there."""
    package = Path(hermes_nb.__file__).parent
    for _, _, module, _, _ in overview.STOPS:
        for name in module.split("\n"):
            assert (package / f"{name}.py").is_file() or (package / name).is_dir(), name
    assert [stop[-1] for stop in overview.STOPS] == ["01", "01", "02", "03", "04", "05"]


def test_the_road_names_the_folders_that_runs_have():
    """The folder names come from the code that writes them."""
    package = Path(hermes_nb.__file__).parent
    code = "".join((package / f"{name}.py").read_text(encoding="utf-8") for name in ("pipeline", "formatting"))
    assert [s[3] for s in overview.STOPS[1:]] == ["format/rows/", "sft/adapter/", "dpo/adapter/", "merged/", "reports/"]
    for part in ('"format" / "rows"', '"adapter"', '"merged"', '"reports"'):
        assert part in code
