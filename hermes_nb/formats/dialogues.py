"""Readers for sets that keep a whole dialogue in one text: Human and Assistant turns. Lesson: 01_preference_data."""

import re

from hermes_nb.formats.rows import Unusable, number, pair, parted, said, text
from hermes_nb.formats.unwrap import template_of, unwrap, unwrap_answer

LAST = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
NAMES = {"Human": "user", "Assistant": "assistant"}


def turns(whole: str, column: str) -> list[dict]:
    """Messages of a dialogue in which every turn begins with `\\n\\nHuman:` or `\\n\\nAssistant:`.

    A mark inside a line, or after one newline only, is text. Blanks around a turn are stripped.
    Raises Unusable ("no dialogue") where text stands before the first mark, or there is none.
    """
    before, *rest = TURN.split(whole)
    if before.strip() or not rest:
        raise Unusable("no dialogue", f"{column} does not begin with \\n\\nHuman:")
    return [said(NAMES[who], what.strip(), column) for who, what in zip(rest[::2], rest[1::2], strict=True)]


def dialogue(whole: str, column: str) -> list[dict]:
    """Messages of one hh-rlhf text, split at its last `\\n\\nAssistant:`; what follows that mark is the answer."""
    at = whole.rfind(LAST)
    if at < 0:
        raise Unusable("no dialogue", f"{column} has no \\n\\nAssistant:")
    return [*turns(whole[:at], column), said("assistant", whole[at + len(LAST) :].strip(), column)]


def hh_rlhf(row: dict) -> dict:
    """Pair from Anthropic/hh-rlhf: `chosen, rejected` text, each a whole dialogue of Human and Assistant turns.

    The answer is what follows the last `\\n\\nAssistant:`; blanks around a turn are stripped. Unusable where the two
    dialogues do not share what stands before. Source: https://huggingface.co/datasets/Anthropic/hh-rlhf (160,800
    train rows, MIT); last mark as in https://github.com/eric-mitchell/direct-preference-optimization
    """
    return parted(*(dialogue(text(row[side], side), side) for side in ("chosen", "rejected")))


def rlhf_reward(row: dict) -> dict:
    """Pair from yitingxie/rlhf-reward-datasets: `prompt, chosen, rejected` text.

    `prompt` is a dialogue that ends in two newlines (`\\n\\nHuman: ...\\n\\n`), each answer begins with `Assistant:`.
    Source: https://huggingface.co/datasets/yitingxie/rlhf-reward-datasets
    """
    before = text(row["prompt"], "prompt").rstrip() + "\n\n"
    answers = {side: text(row[side], side).lstrip() for side in ("chosen", "rejected")}
    for side, answer in answers.items():
        if not answer.startswith("Assistant:"):
            raise Unusable("no dialogue", f"{side} does not begin with Assistant:")
    return parted(*(dialogue(before + answer, side) for side, answer in answers.items()))


def hermes_preference(row: dict) -> dict:
    """Pair from Hermes-7b's mixture of three sets: `source, prompt, chosen, rejected` text.

    A prompt of Human and Assistant turns (the hh-rlhf and reward rows) is taken apart, any other one is a question.
    Answers may still begin with `Assistant:`. Where the published script has cut a longer dialogue wrongly, the lost
    turns cannot be brought back: rebuild the mixture from its sources (`mixtures.HERMES_PREFERENCE`) instead.
    Source: https://github.com/gauss5930/Hermes, data_pipeline/data_pipeline.py
    """
    prompt = text(row["prompt"], "prompt")
    answers = {s: text(row[s], s).strip().removeprefix("Assistant:").strip() for s in ("chosen", "rejected")}
    if "\n\nHuman:" not in "\n\n" + prompt.lstrip():
        return plain_pairs({"prompt": prompt, **answers})
    asked = turns("\n\n" + prompt.strip().removesuffix("Assistant:"), "prompt")
    for side, answer in answers.items():
        if TURN.search(answer):
            raise Unusable("no dialogue", f"{side} holds more than one answer")
    return pair(asked, **answers)


def plain_pairs(row: dict) -> dict:
    """Pair from three texts: `prompt, chosen, rejected`; `metadata` with equal `score_chosen, score_rejected` is none.

    Texts that a chat template has already been laid around (ChatML, Zephyr, Alpaca's `### Instruction`, Human and
    Assistant turns) are taken apart into messages. Schema as in mlabonne/chatml_dpo_pairs and TRL's standard form.
    """
    meta = row.get("metadata")
    if isinstance(meta, dict) and "score_chosen" in meta:
        scores = [number(meta.get(f"score_{side}"), "metadata") for side in ("chosen", "rejected")]
        if scores[0] is not None and scores[0] == scores[1]:
            raise Unusable("no preference", f"both rated {scores[0]:g}")
    prompt, chosen, rejected = (text(row[side], side) for side in ("prompt", "chosen", "rejected"))
    asked = unwrap(prompt) or [said("user", prompt, "prompt")]
    answers = [_answer(prompt, whole, side) for whole, side in ((chosen, "chosen"), (rejected, "rejected"))]
    return pair(asked, *answers)


def _answer(prompt: str, answer: str, side: str) -> str:
    """The text of an answer without the marks that a template has put around it; it may repeat the prompt."""
    whole = answer.removeprefix(prompt) if template_of(prompt) else answer  # a bare "Hi" begins "High time." too
    found = unwrap_answer(whole, prompt)
    if found is None:
        return whole.strip() if template_of(prompt) else whole
    if [m["role"] for m in found] != ["assistant"]:
        raise Unusable("no dialogue", f"{side} holds more than one answer")
    return found[0]["content"]


def plain_text(row: dict) -> dict:
    """Conversation from one text column, `text`, that holds a rendered dialogue (ChatML, Zephyr, Alpaca, Human).

    Raises Unusable ("no dialogue") for text without turns: it cannot be said what is asked and what is learned.
    """
    found = unwrap(text(row["text"], "text"))
    if not found:
        raise Unusable("no dialogue", "text holds no turns of a known template")
    return {"messages": found}


def prompt_completion(row: dict) -> dict:
    """Conversation from two texts: `prompt, completion` (TRL's standard form), without templates around them."""
    prompt, answer = text(row["prompt"], "prompt"), text(row["completion"], "completion")
    asked = unwrap(prompt) or [said("user", prompt, "prompt")]
    return {"messages": [*asked, said("assistant", _answer(prompt, answer, "completion"), "completion")]}
