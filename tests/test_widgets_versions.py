"""Run alone: python -m pytest tests/test_widgets_versions.py (with Colab's versions: make test-old-widgets)"""

import importlib
import importlib.metadata
import os
import re
from pathlib import Path

import pytest

OLD = os.environ.get("HERMES_WIDGETS") == "old"
PINS = Path(__file__).with_name("old_widgets.txt") if OLD else Path(__file__).parent.parent / "requirements.txt"
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)", PINS.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", ["ipywidgets", "ipykernel", *(["ipython"] if OLD else [])])
def test_the_widgets_are_those_of_the_list(name):
    """A second environment that silently tests the first one's packages again."""
    imported = importlib.import_module({"ipython": "IPython"}.get(name, name))
    assert imported.__version__ == importlib.metadata.version(name) == PINNED[name]


def test_an_argument_that_these_widgets_do_not_know_is_an_error_in_the_second_environment():
    """ipywidgets 7 takes what only 8 knows, warns, and does nothing: a tooltip that no reader on Colab sees."""
    import ipywidgets

    if OLD:
        with pytest.raises(DeprecationWarning, match="unrecognized arguments"):
            ipywidgets.HTML(tooltip="only 8 knows it")
    else:
        assert ipywidgets.HTML(tooltip="only 8 knows it").tooltip == "only 8 knows it"


@pytest.mark.filterwarnings("error:Passing unrecognized arguments:DeprecationWarning")
def test_the_controls_of_the_course_are_in_both():
    """A control, or what is set on it, that one of the two versions lacks."""
    import ipywidgets as w

    seen = []
    button = w.Button(description="next", tooltip="the next pair", button_style="danger", icon="stop")
    button.on_click(lambda pressed: seen.append(pressed.tooltip))
    button.click()
    steps = w.SelectionSlider(options=[("0", 0), ("5", 5)], value=5, continuous_update=False, description="step")
    lengths = w.IntRangeSlider(value=(2, 4), min=0, max=8, step=2, continuous_update=False)
    beta = w.FloatLogSlider(value=0.1, base=10, min=-2, max=0, step=0.1, readout_format=".3g")
    list_ = w.Select(options=["a", "b"], value="a", rows=2, layout=w.Layout(width="95%", flex_flow="row wrap"))
    for control, value in ((steps, 0), (lengths, (4, 6)), (beta, 0.01), (list_, "b")):
        control.observe(lambda change: seen.append(change["new"]), names="value")
        control.value = value
    assert seen == ["the next pair", 0, (4, 6), 0.01, "b"]
    w.ToggleButtons(options=["one", "two"], tooltips=["the one", "the other"])
    sections = w.Accordion(children=[w.HTML("<b>one</b>"), w.HBox([w.Textarea("two", rows=3)])], selected_index=None)
    sections.set_title(0, "first")
    sections.set_title(1, "second")
    assert [sections.get_title(i) for i in (0, 1)] == ["first", "second"]
