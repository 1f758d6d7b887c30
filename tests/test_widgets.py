"""Run alone: python -m pytest tests/test_widgets.py"""

import pytest

from hermes_nb import history, widgets


@pytest.fixture
def shown(monkeypatch):
    """What reaches the notebook: (how, picture)."""
    import IPython.display

    seen = []

    class Handle:
        def update(self, picture):
            seen.append(("update", picture))

    def display(picture, display_id=None):
        seen.append(("display", picture))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    return seen


def rows(steps):
    return [
        r
        for s in range(1, steps + 1)
        for r in history.entries({"loss": 0.5, "rewards/margins": s, "rewards/chosen": 0.0, "rewards/rejected": 0.0}, s)
    ]


def test_one_figure_is_redrawn_in_place(shown):
    """Stacked figures fill the page."""
    live = widgets.Live(every=0)
    live.every = -1e9
    for step in range(1, 6):
        live(rows(step), step, 5)
    assert [how for how, _ in shown] == ["display"] + ["update"] * (len(shown) - 1)
    assert live.count == len(shown)


def test_drawing_takes_little_of_the_time_and_the_last_step_is_drawn(shown):
    """Steps faster than the eye must not be drawn one by one; the end must not be missing."""
    live = widgets.Live(every=0.5)
    for step in range(1, 51):
        live(rows(step), step, 50)
    assert [how for how, _ in shown] == ["display", "update"]
    assert live.count == 2


@pytest.mark.parametrize(
    "evil",
    ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></table><svg onload=alert(1)>", "a & b < c"],
)
def test_text_from_data_never_becomes_an_element(evil):
    """A row of a public data set would run as code in the reader's notebook."""
    from html.parser import HTMLParser

    elements = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.append(tag)

    Parser().feed(widgets.table([{evil: evil, "text": evil}]).data)
    assert set(elements) <= {"table", "thead", "tbody", "tr", "th", "td", "br", "span"}


def test_dollars_stay_dollars():
    """MathJax would read $5 and $6 as a formula."""
    assert "<span>$</span>5" in widgets.table([{"text": "$5"}]).data


def test_a_control_redraws_the_one_picture(monkeypatch):
    """One output holds the live widget and, for readers without a kernel, the first figure as a picture."""
    import IPython.display
    from ipywidgets import FloatSlider

    from hermes_nb import plots

    drawn, shown = [], []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw=False: shown.append((data, raw)))

    def draw(height):
        drawn.append(height)
        fig, (ax,) = plots.figure(1, 1.0)
        ax.bar([0], [height])
        return fig

    box = widgets.explore(draw, height=FloatSlider(value=1.0, min=0, max=5))
    slider, image = box.children
    before = image.value
    slider.value = 3.0
    assert drawn == [1.0, 3.0]
    assert image.value != before
    ((bundle, raw),) = shown
    assert raw
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert bundle["image/png"].startswith("iVBOR")
