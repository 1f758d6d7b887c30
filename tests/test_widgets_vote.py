"""The blind vote. Run alone: python -m pytest tests/test_widgets_vote.py"""

from html.parser import HTMLParser

import pytest

from hermes_nb import widgets

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> $x$ & more"


@pytest.fixture
def shown(monkeypatch):
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw=False: seen.append(bundle))
    return seen


def pairs(count=3):
    return [{"question": f"Why {i}?", "sft": f"padded {i}", "dpo": f"card {i}", "rule": "dpo"} for i in range(count)]


def parts(ballot):
    head, answers, buttons = ballot.box.children
    return head, answers.children, buttons.children


def test_a_click_is_a_vote_and_shows_the_next_pair(shown):
    """The whole way: three clicks, three votes, the result, and buttons that are done."""
    ballot = widgets.vote(pairs())
    head, (left, _), buttons = parts(ballot)
    assert [b.description for b in buttons] == ["Left", "Right", "Tie"]
    before = left.value
    for number, button in enumerate(buttons):
        assert f"{number + 1} of 3" in head.value
        button.click()
    assert left.value != before
    assert [v["winner"] == "tie" for v in ballot.state["votes"]] == [False, False, True]
    assert "done: dpo wins" in head.value
    assert all(b.disabled for b in buttons)


def test_buttons_stay_the_same_so_that_the_focus_stays(shown):
    """A keyboard voter must not have to find the buttons again after every vote."""
    ballot = widgets.vote(pairs())
    before = parts(ballot)[2]
    before[2].click()
    assert all(a is b for a, b in zip(parts(ballot)[2], before, strict=True))


def test_nothing_tells_which_model_it_is(shown):
    """A vote that is not blind is an opinion on names."""
    ballot = widgets.vote([{"question": "q", "sft": "one", "dpo": "two", "rule": "dpo"}])
    head, answers, buttons = parts(ballot)
    said = " ".join([head.value, *(a.value for a in answers), *(b.description + b.tooltip for b in buttons)])
    assert not [name for name in ("sft", "dpo", "rule") if name in said.lower()]


def test_texts_never_become_elements(shown):
    """A model's answer would run as code in the reader's notebook."""
    ballot = widgets.vote([{"question": EVIL, "sft": EVIL, "dpo": EVIL}])
    elements = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.append(tag)

    head, answers, _ = parts(ballot)
    for part in (head, *answers):
        Parser().feed(part.value)
    assert set(elements) <= {"b", "br", "span"}


def test_without_a_kernel_there_is_a_picture_and_a_text(shown):
    """A committed notebook and print show no widget."""
    widgets.vote(pairs())
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} == set(shown[0])
    assert len(shown[0]["image/png"]) < 80_000
    assert "nobody has voted yet" in shown[0]["text/plain"]


def test_only_core_widgets_are_used(shown):
    """ipywidgets 7.7.1 and 8.1, without any extension."""
    import ipywidgets

    found, todo = set(), [widgets.vote(pairs()).box]
    while todo:
        part = todo.pop()
        found.add(type(part).__name__)
        todo += part.children if isinstance(part, ipywidgets.Box) else []
    assert found == {"VBox", "HBox", "HTML", "Button"}
