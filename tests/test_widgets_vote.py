"""The blind vote. Run alone: python -m pytest tests/test_widgets_vote.py"""

from html.parser import HTMLParser

import pytest

from hermes_nb import widgets

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> $x$ & more"


def pairs(count=3):
    return [{"question": f"Why {i}?", "sft": f"padded {i}", "dpo": f"card {i}", "rule": "dpo"} for i in range(count)]


def parts(ballot):
    head, answers, buttons, *_ = ballot.box.children
    return head, answers.children, buttons.children


def below(ballot):
    """Line, Undo, Show result, and what is revealed."""
    *_, line, more, reveal = ballot.box.children
    return line, *more.children, reveal


def whole(ballot):
    """All that is shown."""
    import ipywidgets

    said, todo = [], [ballot.box]
    while todo:
        part = todo.pop()
        todo += part.children if isinstance(part, ipywidgets.Box) else []
        said += [part.value] if isinstance(part, ipywidgets.HTML) else []
        said += [part.description + part.tooltip] if isinstance(part, ipywidgets.Button) else []
    return " ".join(said)


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


@pytest.mark.parametrize("votes", range(8))
def test_nothing_tells_which_model_it_is(shown, votes):
    """A vote that is not blind is an opinion on names; a running win rate tells which style is whose."""
    ballot = widgets.vote([{"question": "q", "sft": "one", "dpo": "two", "rule": "dpo"}] * 8)
    for _ in range(votes):
        parts(ballot)[2][0].click()
    said = whole(ballot).lower()
    assert f"{votes} votes cast" in said
    assert not [name for name in ("sft", "dpo", "rule", "win", "%") if name in said]


def test_texts_never_become_elements(shown):
    """A model's answer would run as code in the reader's notebook."""
    ballot = widgets.vote([{"question": EVIL, "sft": EVIL, "dpo": EVIL, "rule": EVIL}])
    elements = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.append(tag)

    Parser().feed(whole(ballot))
    named = widgets.vote([{"question": "q", "a": "a", EVIL: "b"}] * 6, ("a", EVIL))
    for _ in range(5):
        parts(named)[2][0].click()
    below(named)[2].click()
    assert "so far: &lt;script" in whole(named)
    Parser().feed(whole(named))
    parts(ballot)[2][0].click()
    Parser().feed(whole(ballot))  # the questions stand in the table of the end, too
    assert "&lt;script" in below(ballot)[3].value
    assert set(elements) <= {"b", "br", "span", "div", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_vote_can_be_taken_back_and_is_recorded(shown):
    """A finger slips; but who changes votes in silence can make any result."""
    ballot = widgets.vote(pairs(2))
    head, _, buttons = parts(ballot)
    _, undo, _, reveal = below(ballot)
    first = head.value
    undo.click()  # nothing yet
    assert undo.disabled
    assert "taken back" not in below(ballot)[0].value
    buttons[0].click()
    assert not undo.disabled
    undo.click()
    assert head.value == first
    assert (ballot.state["votes"], len(ballot.state["undone"])) == ([], 1)
    assert "0 votes cast, 1 taken back" in below(ballot)[0].value
    for _ in range(2):
        buttons[1].click()
    undo.click()  # the last one, after the end
    assert not buttons[0].disabled
    assert reveal.value == ""
    assert len(ballot.state["votes"]) == 1


def test_the_result_is_shown_on_demand_and_from_five_votes_on(shown):
    """Three votes are no rate; and who has looked is told that the rest is not blind."""
    ballot = widgets.vote(pairs(8))
    buttons = parts(ballot)[2]
    line, _, result, reveal = below(ballot)
    for _ in range(5):
        assert result.disabled
        buttons[0].click()
    assert not result.disabled
    result.click()
    assert "so far: dpo wins" in line.value
    assert "95 % interval" in line.value
    assert reveal.value == ""
    assert ballot.state["seen_after"] == [5]
    buttons[0].click()
    assert "wins" not in line.value
    assert "after 5 votes" in line.value
    for _ in range(2):
        buttons[0].click()
    assert result.disabled
    assert ballot.state["seen_after"] == [5]
    assert "8 votes, of which 3 were cast after you had seen a result" in parts(ballot)[0].value


def test_a_blind_voter_is_not_called_seeing(shown):
    """Who never asked for the result was told at the end that the votes were not blind."""
    ballot = widgets.vote(pairs(6))
    for _ in range(6):
        parts(ballot)[2][0].click()
    assert ballot.state["seen_after"] == []
    said = parts(ballot)[0].value + below(ballot)[0].value
    assert "done: dpo wins" in said
    assert "6 votes cast" in said
    assert not [words for words in ("you saw", "not blind", "had seen") if words in said]


@pytest.mark.parametrize("choice", [1, 2])
def test_undo_after_the_reveal_is_no_way_back_to_blindness(shown, choice):
    """The key tells which style is whose: a vote changed then makes any result, and was recorded as blind."""
    ballot = widgets.vote(pairs(3))
    for _ in range(3):
        parts(ballot)[2][choice].click()
    below(ballot)[1].click()
    assert "after 3 votes, and what came later is not blind" in below(ballot)[0].value
    parts(ballot)[2][choice].click()
    assert [v["blind"] for v in ballot.state["votes"]] == [True, True, False]
    assert "3 votes, of which 1 were cast after you had seen a result" in parts(ballot)[0].value


def test_the_end_tells_which_model_stood_where(shown):
    """Left and right are drawn anew for every pair; without the key a voter cannot check the count."""
    from hermes_nb.widgets import table

    ballot = widgets.vote(pairs())
    for _ in range(3):
        parts(ballot)[2][0].click()
    other = {"sft": "dpo", "dpo": "sft"}
    wanted = [
        {
            "question": f"Why {v['pair']}?",
            "left": v["left"],
            "right": other[v["left"]],
            "your vote": v["left"],
            "rule": "dpo",
        }
        for v in ballot.state["votes"]
    ]
    assert below(ballot)[3].value == table(wanted).data
    assert "agrees with the rule in" in parts(ballot)[0].value


def test_ties_alone_are_no_rate(shown):
    """0 % of 0 is no number."""
    ballot = widgets.vote(pairs())
    for _ in range(3):
        parts(ballot)[2][2].click()
    assert "3 ties and no other vote" in parts(ballot)[0].value
    assert "0%" not in parts(ballot)[0].value


def test_an_interval_that_holds_a_coin_says_so(shown):
    """Two of three is read as a win."""
    ballot = widgets.vote(pairs())
    for _ in range(3):
        texts = ballot.now()[1]
        side = "left" if texts["left"].startswith("card") else "right"
        parts(ballot)[2][side == "right"].click()
    assert "wins 100% of 3 (95 % interval 44% to 100%)" in parts(ballot)[0].value
    assert "holds 50 %" in parts(ballot)[0].value


def test_the_sides_stand_below_each_other_on_a_narrow_page(shown):
    """Half of a telephone's width is no place for an answer."""
    ballot = widgets.vote(pairs())
    assert [row.layout.flex_flow for row in ballot.box.children if hasattr(row, "children")] == ["row wrap"] * 3
    assert all(side.layout.flex == "1 1 300px" and side.layout.min_width == "0" for side in parts(ballot)[1])


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
