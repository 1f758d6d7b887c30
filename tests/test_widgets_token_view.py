"""Tokens under a slider. Run alone: python -m pytest tests/test_widgets_token_view.py"""

import copy
import sys

import pytest

from hermes_nb import templates, views, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.widgets.token_view import answers, sentence, state

ROLES = ["prompt"] * 4 + ["trained"] * 3 + ["stop"]
SHORT = ["prompt"] * 4 + ["trained", "stop"]


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


def talk(*said):
    return [{"role": role, "content": words} for role, words in said]


def pair(chosen="one short line because it was asked to do so today", rejected="one short line", prompt="what is rain"):
    return {
        "prompt": talk(("user", prompt)), "chosen": talk(("assistant", chosen)),
        "rejected": talk(("assistant", rejected)),
    }  # fmt: skip


def lengths(tokenizer, row):
    return {name: len(pieces) for name, (pieces, _) in answers(tokenizer, row).items()}


@pytest.mark.parametrize(
    ("limit", "left"),
    [(4, "has nothing left"), (5, "is cut before"), (7, "is cut before"), (8, "still ends"), (99, "still ends")],
)
def test_the_state_changes_exactly_at_the_stop_token(limit, left):
    """Eight tokens, the stop token at place 7: it is there from max_length 8 on; one off would teach a lie."""
    assert state(ROLES, limit).startswith(left)


def test_an_answer_without_its_stop_token_never_ends():
    """Rows that were cut before they came here look whole."""
    assert state(ROLES[:-1], 99).startswith("is cut")
    assert state([*ROLES, "prompt", "trained"], 99).startswith("is cut")
    assert state(["prompt"], 99) == "has nothing left"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (8, "at max_length 8: both still end with their stop tokens."),
        (7, "chosen is cut before its stop token, rejected still ends with its stop token. The only stop token in "
            "sight is on the rejected side, so DPO pushes it down."),
        (5, "both are cut before their stop tokens. This pair says nothing about how to end."),
        (4, "both have nothing left. This pair says nothing about how to end."),
    ],
)  # fmt: skip
def test_the_sentence_says_which_side_still_ends_and_what_follows(limit, said):
    """Six tokens against eight: between them only rejected ends, the case in which a model forgets how to stop."""
    assert sentence({"chosen": ROLES, "rejected": SHORT}, limit).endswith(said)


def test_the_other_way_round_is_not_the_same():
    """Chosen alone with its stop token teaches to stop."""
    assert sentence({"chosen": SHORT, "rejected": ROLES}, 7).endswith("chosen side, so DPO pushes it up.")


def test_one_side_alone_draws_no_conclusion():
    """A conversation has no other side to compare with."""
    assert sentence({"conversation": ROLES}, 7) == "at max_length 7: conversation is cut before its stop token."


def test_to_the_left_the_stop_token_falls_off_the_longer_side_first(shown, tokenizer):
    """The lesson of the slider."""
    row = pair()
    sizes = lengths(tokenizer, row)
    assert sizes["chosen"] > sizes["rejected"]
    panel = widgets.token_view(tokenizer, [row])
    slider, said, tokens = panel.controls["max_length"], panel.outputs["sentence"], panel.outputs["tokens"]
    assert (slider.min, slider.max, slider.value) == (8, sizes["chosen"] + 4, sizes["chosen"])
    assert "both still end" in said.value
    assert "CUT OFF" not in tokens.value
    slider.value = sizes["chosen"] - 1
    assert f"at max_length {sizes['chosen'] - 1}: chosen is cut before its stop token, rejected still" in said.value
    assert tokens.value.count("CUT OFF") == 1
    slider.value = sizes["rejected"] - 1
    assert "both are cut" in said.value
    assert tokens.value.count("CUT OFF") == 2


def test_the_tokens_are_those_of_the_view(shown, tokenizer):
    """A second way to draw tokens would drift from the first."""
    row = pair()
    panel = widgets.token_view(tokenizer, row, max_length=12)
    views_now = [views.tokens(*views.row_tokens(tokenizer, row, s), 12, s) for s in ("chosen", "rejected")]
    assert panel.outputs["tokens"].value == f"<div style='line-height:1.4'>{'<br>'.join(views_now)}</div>"
    panel = widgets.token_view(tokenizer, row, max_length=12, side="rejected")
    assert views_now[1] in panel.outputs["tokens"].value
    assert views_now[0] not in panel.outputs["tokens"].value


def test_a_conversation_is_shown_too(shown, tokenizer):
    """SFT rows have no sides."""
    row = {"messages": pair()["prompt"] + pair()["chosen"]}
    panel = widgets.token_view(tokenizer, row)
    assert "<b>conversation</b>" in panel.outputs["tokens"].value
    assert "conversation still ends" in panel.outputs["sentence"].value


def test_a_row_is_tokenized_once(shown, tokenizer, monkeypatch):
    """Tokenizing at every step of the slider makes it lag."""
    calls = []
    monkeypatch.setattr(views, "row_tokens", lambda *a, real=views.row_tokens: calls.append(a) or real(*a))
    panel = widgets.token_view(tokenizer, [pair(), pair("rain and bread")])
    for value in (9, 10, 11):
        panel.controls["max_length"].value = value
    assert len(calls) == 2
    for value in (1, 0, 1):
        panel.controls["row"].value = value
    assert len(calls) == 4


def test_a_whole_row_stays_whole_and_a_limit_that_was_set_stays(shown, tokenizer):
    """Going to a longer row must not cut it unasked, nor forget the limit that was asked for."""
    longer = pair("one short line because it was asked to do so today " * 3)
    short, long = (lengths(tokenizer, row)["chosen"] for row in (pair(), longer))
    panel = widgets.token_view(tokenizer, [pair(), longer])
    limit, row = panel.controls["max_length"], panel.controls["row"]
    row.value = 1
    assert (limit.value, limit.max) == (long, long + 4)
    row.value = 0
    assert (limit.value, limit.max) == (short, short + 4)
    limit.value = short - 3
    row.value = 1
    assert limit.value == short - 3
    limit.value = long
    row.value = 0
    assert limit.value == short
    assert "both still end" in panel.outputs["sentence"].value


def test_a_limit_above_the_first_row_still_holds_for_the_next(shown, tokenizer):
    """The recipe's max_length must not shrink because the first row happens to be short."""
    longer = pair("one short line because it was asked to do so today " * 3)
    asked = lengths(tokenizer, pair())["chosen"] + 20
    assert asked < lengths(tokenizer, longer)["chosen"]
    panel = widgets.token_view(tokenizer, [pair(), longer], max_length=asked)
    assert panel.controls["max_length"].value == lengths(tokenizer, pair())["chosen"] + 4
    panel.controls["row"].value = 1
    assert panel.controls["max_length"].value == asked


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (pair("one\ud800"), "chosen has a lone surrogate"),
        (pair("\n\nshort answer"), "merge with the prompt"),
        ({"prompt": "what is rain", "chosen": "one", "rejected": "two"}, "not a list of turns"),
        ({"messages": [{"role": "user"}]}, "not a list of turns"),
        ({"messages": []}, "messages is empty"),
        ({"question": "what"}, "not a list of turns"),
    ],
)
def test_a_row_that_cannot_be_tokenized_is_a_sentence_and_the_next_one_works(shown, tokenizer, broken, said):
    """An exception in a callback is seen by nobody: the old row's tokens would stand there as the new one's."""
    panel = widgets.token_view(tokenizer, [broken, pair(), broken])
    for row in (0, 2):
        panel.controls["row"].value = row
        assert said in panel.outputs["sentence"].value
        assert panel.outputs["tokens"].value == ""
        panel.controls["max_length"].value = 8
        assert panel.outputs["tokens"].value == ""
        panel.controls["row"].value = 1
        assert "at max_length" in panel.outputs["sentence"].value
        assert "<b>rejected</b>" in panel.outputs["tokens"].value


def test_a_conversation_may_have_a_prompt_of_its_own(shown, tokenizer):
    """ultrachat_200k has `messages` and the first question again as a string `prompt`; all its rows were refused."""
    row = {"prompt": "what is rain", "prompt_id": "1", "messages": pair()["prompt"] + pair()["chosen"]}
    assert "conversation still ends" in widgets.token_view(tokenizer, row).outputs["sentence"].value


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, IndexError, AttributeError])
def test_whatever_a_row_raises_is_a_sentence(shown, tokenizer, monkeypatch, error):
    """An exception in a callback is seen by nobody: the old row's tokens would stand there as the new one's."""
    panel = widgets.token_view(tokenizer, [pair(), pair()])

    def odd(*_):
        raise error("<b>odd")

    monkeypatch.setattr(views, "row_tokens", odd)
    panel.controls["row"].value = 1
    said = panel.outputs["sentence"].value
    assert "this row cannot be tokenized" in said
    assert "&lt;b&gt;odd" in said
    assert panel.outputs["tokens"].value == ""


def test_a_small_max_length_is_the_one_that_is_shown(shown, tokenizer):
    """Asked for 4, it showed 8 without a word."""
    panel = widgets.token_view(tokenizer, pair(), max_length=4)
    assert (panel.controls["max_length"].min, panel.controls["max_length"].value) == (4, 4)
    assert "at max_length 4:" in panel.outputs["sentence"].value
    with pytest.raises(DataProblem, match="leaves no token"):
        widgets.token_view(tokenizer, pair(), max_length=0)


def test_the_tokens_of_the_last_rows_alone_are_kept(shown, tokenizer, monkeypatch):
    """Sliding through a large set would fill the memory; the row shown last must not be the first to go."""
    monkeypatch.setattr(sys.modules[answers.__module__], "KEPT", 2)  # the function hides the module of its name
    calls = []
    monkeypatch.setattr(views, "row_tokens", lambda *a, real=views.row_tokens: calls.append(a) or real(*a))
    row = widgets.token_view(tokenizer, [pair()] * 3, side="chosen").controls["row"]
    for value, count in ((1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        row.value = value
        assert len(calls) == count


def test_a_template_that_refuses_a_row_is_a_sentence(shown, tokenizer):
    """Published templates raise their own error when turns do not alternate."""
    tokenizer.chat_template = "{{ raise_exception('no such role: ' + messages[0]['role']) }}"
    row = pair() | {"prompt": talk(("<img src=x>", "what is rain"))}
    panel = widgets.token_view(tokenizer, row)
    said = panel.outputs["sentence"].value
    assert "the chat template refuses this row: no such role: &lt;img src=x&gt;" in said


def test_without_rows_or_with_another_side_it_says_so(shown, tokenizer):
    """An empty slider says nothing about why."""
    with pytest.raises(DataProblem, match="at least one row"):
        widgets.token_view(tokenizer, [])
    with pytest.raises(DataProblem, match="choosen"):
        widgets.token_view(tokenizer, pair(), side="choosen")


def test_one_row_needs_no_slider_for_rows(shown, tokenizer, rows):
    """A slider that cannot move is in the way."""
    one, many = widgets.token_view(tokenizer, pair()), widgets.token_view(tokenizer, rows["dpo"])
    assert one.controls["row"] not in one.box.children
    assert many.controls["row"] in many.box.children
    assert many.controls["row"].max == len(rows["dpo"]) - 1


def test_a_reader_without_a_kernel_sees_the_first_state(shown, tokenizer):
    """A committed notebook has no kernel; the static form is the widget's first picture, and small."""
    panel = widgets.token_view(tokenizer, pair(), max_length=12)
    (bundle,) = shown
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert bundle["text/html"] == panel.outputs["sentence"].value + panel.outputs["tokens"].value
    assert "at max_length 12" in bundle["text/plain"]
    assert len(bundle["text/html"]) < 80_000
