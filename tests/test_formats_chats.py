"""Run alone: python -m pytest tests/test_formats_chats.py"""

import pytest
from test_formats_readers import ASKED, BAD, GOOD, PAIR, ROWS, TALK, fault, said

from hermes_nb import formats


def test_ultrachat_turns_alternate_from_the_user():
    """Begun with the assistant, the model would learn to ask."""
    found = formats.ultrachat({"data": ["Q1", "A1", "Q2", "A2", "Q3"]})["messages"]
    assert [m["role"] for m in found] == ["user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in found] == ["Q1", "A1", "Q2", "A2", "Q3"]
    for data, reason in (
        ([], "no message"),
        ("Q A", "wrong type"),
        (["Q", 1], "wrong type"),
        (["\0"], "broken characters"),
    ):
        assert fault("ultrachat", {"data": data}) == reason


def test_further_keys_of_a_message_are_left_out():
    """Every row has the same columns, or no table could hold them. Both sources of such lists are read in one way."""
    row = {"messages": [ASKED | {"extra": 1, "from": "gpt"}, GOOD | {"tool_calls": []}], "prompt": "Q"}
    for source in ("ultrachat_200k", "message_lists"):
        found = formats.convert(source, row, 0, "file")
        assert {"messages": found["messages"]} == formats.ultrachat_200k(row) == TALK


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"), ("user", "user"), ("prompter", "user"), ("Human", "user"), (" USER ", "user"),
        ("gpt", "assistant"), ("GPT", "assistant"), ("chatgpt", "assistant"), ("bot", "assistant"),
        ("model", "assistant"), ("assistant", "assistant"), ("system", "system"),
    ],
)  # fmt: skip
def test_every_usual_name_of_a_role_is_known(name, role):
    """ShareGPT files name the same two speakers in a dozen ways; an unknown one drops the row."""
    assert formats.sharegpt({"conversations": [{"from": name, "value": "x"}]}) == {"messages": [said(role, "x")]}
    assert formats.sharegpt({"conversations": [{"role": name, "content": "x"}]}) == {"messages": [said(role, "x")]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"from": "tool", "value": "x"}], "unknown role"), ([{"from": None, "value": "x"}], "unknown role"),
        ([{"from": ["gpt"], "value": "x"}], "unknown role"), ([{"from": "gpt"}], "wrong type"),
        ([{"value": "x"}], "wrong type"), ([{"from": "gpt", "content": "x"}], "wrong type"), (["x"], "wrong type"),
        ("x", "wrong type"), (None, "wrong type"), ({}, "wrong type"), ([], "no message"),
        ([{"from": "gpt", "value": ["x"]}], "wrong type"), ([{"from": "gpt", "value": "\ud800"}], "broken characters"),
    ],
)  # fmt: skip
def test_a_turn_that_nobody_can_read_drops_its_row_with_a_reason(turns, reason):
    """A tool's turn taken for the user's, or a list for its text, is trained without a word."""
    assert fault("sharegpt", {"conversations": turns}) == reason
    assert fault("sharegpt_pairs", ROWS["sharegpt_pairs"] | {"conversations": turns}) == reason


def test_an_empty_system_turn_is_left_out():
    """An empty system turn is another prompt than none: the model would be asked otherwise than it was trained."""
    empty, words = {"from": "system", "value": " \n"}, {"from": "system", "value": "Be brief."}
    turns = ROWS["sharegpt"]["conversations"]
    assert formats.sharegpt({"conversations": [empty, *turns]}) == TALK
    assert formats.sharegpt({"conversations": [words, *turns]})["messages"][0] == said("system", "Be brief.")
    row = ROWS["sharegpt_pairs"]
    assert formats.sharegpt_pairs(row | {"conversations": [empty, *row["conversations"]]}) == PAIR
    for source in ("sharegpt", "sharegpt_pairs"):  # nothing is left then
        assert fault(source, row | {"conversations": [empty]}) == "no message"
    assert fault("message_lists", {"messages": [said("system", "")]}) == "no message"
    assert formats.message_pairs({"prompt": [said("system", ""), ASKED], "chosen": [GOOD], "rejected": [BAD]}) == PAIR


def test_a_system_column_becomes_the_system_turn():
    """OpenHermes-2.5 keeps it beside the list: left out, the model is trained to act on words that it does not see."""
    system = said("system", "Be brief.")
    pairs, talks = ROWS["sharegpt_pairs"], ROWS["sharegpt"]
    for column in ("system", "system_prompt"):
        assert formats.sharegpt(talks | {column: "Be brief."})["messages"] == [system, *TALK["messages"]]
        assert formats.sharegpt_pairs(pairs | {column: "Be brief."}) == PAIR | {"prompt": [system, ASKED]}
        for nothing in ("", " \n", None):
            assert formats.sharegpt(talks | {column: nothing}) == TALK
        for broken, reason in ((["Be brief."], "wrong type"), ("\ud800", "broken characters")):
            assert fault("sharegpt", talks | {column: broken}) == reason


@pytest.mark.parametrize("nothing", ["", None, " "])
def test_an_empty_system_column_does_not_hide_the_other(nothing):
    """Two columns of two merged sets: one says something in each row."""
    found = formats.sharegpt(ROWS["sharegpt"] | {"system": nothing, "system_prompt": "Be brief."})
    assert found["messages"][0] == said("system", "Be brief.")


def test_the_system_turn_of_the_list_goes_before_the_column():
    """Two system turns in a row, and most templates refuse the conversation; an empty turn in the list is none."""
    turns = ROWS["sharegpt"]["conversations"]
    for words, first in (("Be long.", "Be long."), (" ", "Be brief.")):
        row = {"conversations": [{"from": "system", "value": words}, *turns], "system": "Be brief."}
        assert formats.sharegpt(row)["messages"] == [said("system", first), *TALK["messages"]]


def test_each_side_of_a_sharegpt_pair_is_one_message():
    """dpo-mix-7k's samples hold a message, its full form a list: taken one for the other, the answer is lost."""
    row = ROWS["sharegpt_pairs"]
    assert fault("sharegpt_pairs", row | {"chosen": "good"}) == "wrong type"
    assert fault("sharegpt_pairs", row | {"chosen": [row["chosen"]]}) == "wrong type"
    assert fault("sharegpt_pairs", row | {"rejected": {}}) == "wrong type"


EARLIER = [said("user", "Q1"), said("assistant", "A1")]


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": "Q"}], ids=["absent", "null", "text"])
def test_without_a_prompt_list_both_sides_part_at_their_last_message(prompt):
    """TRL calls this an implicit prompt; with the turns before left in the answers, they would be trained as such."""
    row = prompt | {"chosen": [*EARLIER, ASKED, GOOD], "rejected": [*EARLIER, ASKED, BAD]}
    assert formats.message_pairs(row) == PAIR | {"prompt": [*EARLIER, ASKED]}
    assert fault("message_pairs", row | {"rejected": [ASKED, BAD]}) == "prompts differ"


def test_with_a_prompt_list_each_side_is_one_message():
    """Two messages a side, and nobody knows which of them the loss should see."""
    row = {"prompt": [*EARLIER, ASKED], "chosen": [GOOD], "rejected": [BAD]}
    assert formats.message_pairs(row) == row
    assert fault("message_pairs", row | {"chosen": [ASKED, GOOD]}) == "wrong type"
    assert fault("message_pairs", row | {"rejected": []}) == "no message"
    assert fault("message_pairs", row | {"prompt": []}) == "no message"


def test_openhermes_input_stands_below_its_instruction():
    """Left out, "Translate this sentence." would be asked without the sentence."""
    row = {"instruction": "Translate.", "input": " Guten Tag \n", "output": "Good day"}
    asked = said("user", "Translate.\n\nGuten Tag")
    assert formats.openhermes(row)["messages"] == [asked, said("assistant", "Good day")]
    for nothing in ("", "  ", None):
        assert formats.openhermes(row | {"input": nothing})["messages"][0] == said("user", "Translate.")
