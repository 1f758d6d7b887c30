"""Run alone: python -m pytest tests/test_formats_unwrap.py"""

import time

import pytest
from test_formats_readers import ASKED, BAD, GOOD, PAIR, fault, said

from hermes_nb import formats

SYSTEM, LONG = said("system", "Be brief."), [said("user", "Q1"), said("assistant", "A1"), ASKED]
PREAMBLE = "Below is an instruction that describes a task."


def chatml(*messages, end="<|im_start|>assistant\n") -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + end


def zephyr(*messages, end="<|assistant|>\n") -> str:
    return "".join(f"<|{m['role']}|>\n{m['content']}</s>\n" for m in messages) + end


RENDERED = {
    "chatml": (chatml(SYSTEM, *LONG), [SYSTEM, *LONG]),
    "chatml, an answer at the end": (chatml(ASKED, GOOD, end=""), [ASKED, GOOD]),
    "chatml, on one line": ("<|im_start|>user Q<|im_end|> <|im_start|>assistant good<|im_end|>", [ASKED, GOOD]),
    "chatml, blanks in front": ("\n " + chatml(ASKED, end=""), [ASKED]),
    "chatml, never closed": ("<|im_start|>user\nQ", [ASKED]),
    "zephyr": (zephyr(SYSTEM, *LONG), [SYSTEM, *LONG]),
    "zephyr, no newline between turns": ("<|user|>\nQ</s><|assistant|>\ngood</s>", [ASKED, GOOD]),
    "zephyr, open at the end": (zephyr(ASKED, end="<|assistant|>"), [ASKED]),
    "zephyr without stop tokens": (zephyr(SYSTEM, *LONG).replace("</s>", ""), [SYSTEM, *LONG]),
    "zephyr without stop tokens, an answer at the end": ("<|user|>Q\n\n<|assistant|> good\n", [ASKED, GOOD]),
    "zephyr without stop tokens, a tag in a line": ("<|user|>\nQ\n<|assistant|>\nwrite <|user|> there",
                                                    [ASKED, said("assistant", "write <|user|> there")]),
    "alpaca": ("### Instruction:\nQ\n\n### Response:\n", [ASKED]),
    "alpaca with preamble": (f"{PREAMBLE}\n\n### Instruction:\nQ\n\n### Response:\ngood",
                             [said("system", PREAMBLE), ASKED, GOOD]),
    "alpaca with input": ("### Instruction:\nQ\n\n### Input:\nmore\n\n### Response:\ngood",
                          [said("user", "Q\n\nmore"), GOOD]),
    "alpaca, input alone": ("### Input:\nQ\n\n### Response:\ngood", [ASKED, GOOD]),
    "vicuna": ("### Human: Q\n### Assistant: good", [ASKED, GOOD]),
    "hh": ("\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q\n\nAssistant:", LONG),
    "hh without its first newlines": ("Human: Q\n\nAssistant: good", [ASKED, GOOD]),
    "hh, a blank in front": (" Human: Q\n\nAssistant: good", [ASKED, GOOD]),
    "vicuna, a newline in front": ("\n### Human: Q\n### Assistant: good", [ASKED, GOOD]),
    "vicuna, a blank in front": (" ### Human: Q\n### Assistant: good", [ASKED, GOOD]),
    "alpaca, a blank in front": (" ### Instruction:\nQ\n\n### Response:\ngood", [ASKED, GOOD]),
    "zephyr without stop tokens, a blank in front": (" <|user|>\nQ\n<|assistant|>\ngood", [ASKED, GOOD]),
    "hh, a mark after one newline": ("\n\nHuman: Q\nHuman: x\n\nAssistant: good", [said("user", "Q\nHuman: x"), GOOD]),
}  # fmt: skip


@pytest.mark.parametrize("name", RENDERED)
def test_a_rendered_text_is_taken_apart_into_its_messages(name):
    """Trained as it is, it would get a second template around the first."""
    text, messages = RENDERED[name]
    assert formats.unwrap(text) == messages
    if messages[-1] == GOOD:
        assert formats.plain_text({"text": text}) == {"messages": messages}


ORDINARY = {
    "chatml named in a line": "What does <|im_start|>user mean in ChatML?",
    "all marks named in a line": "Templates use <|user|>, </s>, ### Response: and Human: as marks, or <|im_end|>.",
    "zephyr quoted without stop tokens": "The template is:\n<|user|>\nhi\n<|assistant|>\n",
    "zephyr quoted": "The template is:\n```\n<|user|>\nhi</s>\n```\nUse it.",
    "chatml quoted": "Send this:\n```\n<|im_start|>user\nhi<|im_end|>\n```\nand wait.",
    "headings": "# Guide\n\n### System Requirements\n4 GB\n\n### User Interface\nA window.",
    "a heading at the beginning": "### Instructions for use\nShake well.",
    "judges' headings": "### User Interface\nnew\n\n### Assistants\nnone",
    "one heading below": "Text\n\n### Response\nmore",
    "deeper heading": "#### Instruction\nx\n#### Response\ny",
    "one turn quoted": "He wrote:\n\nHuman: a species.",
    "words in a line": "The Human: Assistant: protocol",
    "marks after one newline": "Human rights\nHuman: x\nAssistant: y",
    "nothing": "",
    "blanks": " \n\t",
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_text_that_only_mentions_marks_is_left_alone(name):
    """Cut at a mark that it quotes, a question becomes a system turn and half a question, without a word."""
    assert formats.unwrap(ORDINARY[name]) is None
    row = {"prompt": ORDINARY[name], "chosen": f"good\n\n{ORDINARY[name]}", "rejected": "bad"}
    assert formats.plain_pairs(row) == {
        "prompt": [said("user", row["prompt"])], "chosen": [said("assistant", row["chosen"])], "rejected": [BAD],
    }  # fmt: skip


ASKING = {
    "chatml": chatml(ASKED), "zephyr": zephyr(ASKED), "hh": "\n\nHuman: Q\n\nAssistant:", "plain": "Q",
    "alpaca": "### Instruction:\nQ\n\n### Response:\n", "vicuna": "### Human: Q\n### Assistant:",
    "bare zephyr": "<|user|>\nQ\n<|assistant|>\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("asking", "answer", "plain"),
    [
        ("chatml", "good<|im_end|>", "good"), ("chatml", "<|im_start|>assistant\ngood<|im_end|>\n", "good"),
        ("chatml", "<|im_end|>", ""), ("chatml", " good \n", "good"),
        ("chatml", "a <|im_end|> b", "a <|im_end|> b"),
        ("zephyr", "good</s>\n", "good"), ("zephyr", "<|assistant|>\ngood</s>\n", "good"), ("zephyr", "good ", "good"),
        ("bare zephyr", " good\n", "good"), ("bare zephyr", "<|assistant|>\ngood\n", "good"),
        ("bare zephyr", "a <|user|> b", "a <|user|> b"), ("bare zephyr", "good</s>", "good"),
        ("plain", "good<|im_end|>", "good"), ("plain", "good</s>", "good"), ("plain", " a\nb ", " a\nb "),
        ("plain", "### Response:\nis Alpaca's mark", "### Response:\nis Alpaca's mark"),
        ("plain", "Human: a species.", "Human: a species."),
        ("plain", "It says\n\nAssistant: x", "It says\n\nAssistant: x"), ("alpaca", "### Response:\ngood", "good"),
        ("alpaca", "good\n", "good"), ("alpaca", "good</s>", "good"), ("hh", " good", "good"),
        ("hh", " Assistant: good\n", "good"), ("hh", " good</s>", "good"), ("hh", "Assistant:\ngood", "good"),
        ("hh", "It says\nHuman: x", "It says\nHuman: x"),
        ("hh", "### Response:\nx", "### Response:\nx"), ("vicuna", " good\n", "good"),
        ("vicuna", "### Assistant: good", "good"), ("vicuna", "Human: x", "Human: x"),
    ],
)  # fmt: skip
def test_an_answer_loses_the_marks_around_it_and_nothing_else(asking, answer, plain):
    """A stop token left in the text is trained twice; a heading cut away that the prompt's template does not have,
    and the answer is another one. The blank that a template puts in front is not the answer's; without one it is."""
    prompt, said_so = ASKING[asking], said("assistant", plain)
    assert formats.plain_pairs({"prompt": prompt, "chosen": answer, "rejected": "bad"}) == PAIR | {"chosen": [said_so]}
    assert formats.prompt_completion({"prompt": prompt, "completion": answer}) == {"messages": [ASKED, said_so]}


@pytest.mark.parametrize("wrapped", ["<|im_start|>assistant\n<|im_end|>\n", "<|assistant|>\n</s>\n"])
def test_an_empty_answer_in_a_template_is_an_empty_answer(wrapped):
    """The audit drops empty answers by that name; "more than one answer" sends the reader looking for another fault."""
    pair = formats.plain_pairs({"prompt": chatml(ASKED), "chosen": "good", "rejected": wrapped})
    assert pair["rejected"] == [said("assistant", "")]


def test_struck_out_html_at_the_end_is_no_stop_token():
    """`</s>` closes `<s>` in HTML; taken for a stop token, the tag stays open."""
    row = {"prompt": "Strike out the old price.", "chosen": "<s>10 EUR</s>", "rejected": "bad"}
    assert formats.plain_pairs(row)["chosen"] == [said("assistant", "<s>10 EUR</s>")]


@pytest.mark.parametrize("template", [chatml, zephyr])
def test_answers_that_repeat_a_rendered_prompt_lose_it(template):
    """TRL's implicit prompt as texts: with the prompt left in the answer, the question would be trained."""
    prompt = template(SYSTEM, ASKED)
    row = {"prompt": prompt, "chosen": f"{prompt}good", "rejected": f"{prompt}bad"}
    assert formats.plain_pairs(row) == PAIR | {"prompt": [SYSTEM, ASKED]}


@pytest.mark.parametrize(("prompt", "answer"), [("Hello", "Hello! How can I help?"), ("Hi", "High time."), ("I", "I")])
def test_an_answer_that_begins_as_its_question_is_kept_whole(prompt, answer):
    """Cut by the question, "Hello" and "Hello! How can I help?" would teach the answer "! How can I help?"."""
    pair = formats.plain_pairs({"prompt": prompt, "chosen": answer, "rejected": "bad"})
    assert pair["chosen"] == [said("assistant", answer)]
    assert formats.prompt_completion({"prompt": prompt, "completion": answer})["messages"][1]["content"] == answer


def test_an_answer_that_holds_further_turns_is_no_answer():
    """Trained as one text, it would teach the model to speak for the user."""
    row = {"prompt": chatml(ASKED), "chosen": "good<|im_end|>\n" + chatml(ASKED, BAD, end=""), "rejected": "bad"}
    assert fault("plain_pairs", row) == "no dialogue"
    assert fault("prompt_completion", {"prompt": row["prompt"], "completion": row["chosen"]}) == "no dialogue"


@pytest.mark.parametrize(
    ("asking", "more"),
    [
        ("hh", "\n\nHuman: Q2"), ("hh", "\n\nHuman: Q2\n\nAssistant: A2"), ("hh", "\n\nAssistant: A2"),
        ("vicuna", "\n### Human: Q2"), ("vicuna", "\n### Assistant: A2"), ("alpaca", "\n\n### Instruction:\nQ2"),
        ("alpaca", "\n\n### Input:\nmore"), ("alpaca", "\n\n### Response:\nA2"), ("bare zephyr", "\n<|user|>\nQ2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["chosen", "rejected", "completion"])
def test_an_answer_that_runs_on_in_the_prompts_own_marks_is_no_answer(asking, more, side):
    """A model that did not stop wrote both speakers; in a prompt without such marks, the same words are its text."""
    source = "prompt_completion" if side == "completion" else "plain_pairs"
    row = {"chosen": "good", "rejected": "bad"} | {"prompt": ASKING[asking], side: f" good{more}"}
    assert fault(source, row) == "no dialogue"
    assert fault(source, row | {side: " good"}) == ""
    assert fault(source, row | {"prompt": "Q"}) == ""


@pytest.mark.parametrize("text", ["", "Plain words.", chatml(), None])
def test_text_without_turns_is_no_conversation(text):
    """Nobody can say what is asked in it and what is learned."""
    assert fault("plain_text", {"text": text}) == "no dialogue"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"score_chosen": 7.5, "score_rejected": "7.5"}, "no preference"),
        ({"score_chosen": 9, "score_rejected": 8}, ""), ({"score_chosen": None, "score_rejected": None}, ""),
        ({"score_chosen": 1}, ""), ("note", ""), (None, ""),
        ({"score_chosen": [1], "score_rejected": [1]}, "wrong type"),
    ],
)  # fmt: skip
def test_triples_with_equal_scores_are_no_preference(metadata, reason):
    """25 of 200 genuine UltraFeedback triples are ties."""
    assert fault("plain_pairs", {"prompt": "Q", "chosen": "good", "rejected": "bad", "metadata": metadata}) == reason


def seconds(work, *given) -> float:
    """Processor time, which other processes do not lengthen."""
    begun = time.process_time()
    work(*given)
    return time.process_time() - begun


PIECES = [
    " ", "\n", "<|", "<|im_start|>user\n", "<|user|>\n", "<|im_end|>", "\n### User:\nx",
    "\n### Input:\nsixteen letters.", "\n\nHuman: a\n\nAssistant: b",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_five_megabytes_take_ten_times_as_long_as_a_tenth(piece):
    """A text searched or joined anew at each step takes a hundred times as long; 30 is the bound."""

    def work(text):
        fault("plain_pairs", {"prompt": text, "chosen": text[1:], "rejected": text[2:]})
        fault("hh_rlhf", {"chosen": text, "rejected": text})
        formats.excerpt({"text": text})

    few, many = (f"### Instruction:\n{piece * (size // len(piece))}" for size in (500_000, 5_000_000))
    short, long = seconds(work, few), seconds(work, many)
    assert long < 30 * max(short, 0.03)
