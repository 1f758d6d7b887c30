"""Run alone: python -m pytest tests/test_widgets.py"""

import pytest

from hermes_nb import widgets


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
    slider, image, line = box.children
    before = image.value
    slider.value = 3.0
    assert drawn == [1.0, 3.0]
    assert line.value == ""
    assert image.value != before
    ((bundle, raw),) = shown
    assert raw
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert bundle["image/png"].startswith("iVBOR")


def test_what_draw_raises_is_a_sentence_until_it_draws_again(shown):
    """An exception in a callback is lost: the figure would stand still without a word."""
    from ipywidgets import FloatSlider

    from hermes_nb import plots

    def draw(height):
        if height > 2:
            raise RuntimeError("too <b>high</b>")
        return plots.figure(1, 1.0)[0]

    box = widgets.explore(draw, height=FloatSlider(value=1.0, min=0, max=5))
    slider, image, line = box.children
    before = image.value
    slider.value = 3.0
    assert line.value == "<b>not drawn: RuntimeError: too &lt;b&gt;high&lt;/b&gt;</b>"
    assert image.value == before
    slider.value = 2.0
    assert line.value == ""
    with pytest.raises(RuntimeError, match="too"):
        widgets.explore(draw, height=FloatSlider(value=3.0, min=0, max=5))
