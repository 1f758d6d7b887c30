"""Views as the output of a cell. Run alone: python -m pytest tests/test_widgets_show.py"""

import copy

import pytest

from hermes_nb import audit, templates, views, widgets
from hermes_nb.errors import DataProblem

EVIL = "<script>alert(1)</script>\x1b[31m\u202e$x$\ud800"


@pytest.fixture
def shown(monkeypatch):
    """HTML that reaches the notebook."""
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda what: seen.append(what._repr_html_()))
    return seen


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


def test_a_pair_is_shown_as_its_view(shown, rows):
    """One output, and nothing returned that the notebook would print again."""
    row = rows["dpo"][0]
    assert widgets.show_pair(row) is None
    assert shown == [views.pair(row)]


@pytest.mark.parametrize(("kind", "side"), [("dpo", "chosen"), ("dpo", "rejected"), ("sft", "chosen")])
def test_tokens_are_shown_as_their_view(shown, rows, tokenizer, kind, side):
    """The side and the limit that were asked for, and which side it is."""
    row = rows[kind][0]
    title = side if kind == "dpo" else "conversation"
    assert widgets.show_tokens(tokenizer, row, side, max_length=9) is None
    assert shown == [views.tokens(*views.row_tokens(tokenizer, row, side), 9, title)]
    assert "cut off" in shown[0]
    assert f"<b>{title}</b>" in shown[0]


def test_the_chosen_side_without_a_limit_is_shown_unless_asked(shown, rows, tokenizer):
    """The common call has no options."""
    widgets.show_tokens(tokenizer, rows["dpo"][0])
    assert "<b>chosen</b>" in shown[0]
    assert "cut off" not in shown[0]
    with pytest.raises(DataProblem, match="chosen or rejected"):
        widgets.show_tokens(tokenizer, rows["dpo"][0], "choosen")


def test_an_audit_is_shown_as_its_view(shown, rows, tokenizer):
    """What was dropped is seen where it was dropped."""
    found = audit.pairs(rows["dpo"], tokenizer, 128)
    assert widgets.show_audit(found) is None
    assert shown == [views.audit(found)]


def test_tables_and_ballots_show_text_as_views_do():
    """Two ways to escape are two places to forget one: control characters, bidi marks and lone surrogates too."""
    html = widgets.table([{EVIL: EVIL}]).data
    assert html.count(views.text(EVIL)) == 2
    html.encode("utf-8")
    assert "\x1b" not in html


def test_few_options_are_buttons_and_many_a_list():
    """JupyterLab takes the arrow keys of a focused list for itself: without buttons a choice needs a mouse."""
    few, many = widgets.choice("order", [("one", 1), ("two", 2)]), widgets.choice("kind", list("abcdefg"))
    assert (type(few).__name__, type(many).__name__) == ("ToggleButtons", "Dropdown")
    assert (few.value, few.description, many.value) == (1, "order", "a")
    assert type(widgets.choice("kind", ["all"], 9)).__name__ == "Dropdown"
