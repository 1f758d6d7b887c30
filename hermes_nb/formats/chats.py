"""Readers for sets of conversations, and for pairs that are lists of messages already. Lesson: 01_preference_data."""

from hermes_nb.formats.rows import Unusable, from_cell, items, message, messages, parted, said, without_empty_system


def ultrachat(row: dict) -> dict:
    """Conversation from stingning/ultrachat: `id` text, `data` list of texts, user and assistant in turn.

    Source: https://huggingface.co/datasets/stingning/ultrachat (about 1.4M rows; CC BY-NC 4.0)
    """
    said_in_turn = items(row["data"], "data", str)
    if not said_in_turn:
        raise Unusable("no message", "data")
    return {"messages": [said(("user", "assistant")[i % 2], what, "data") for i, what in enumerate(said_in_turn)]}


def ultrachat_200k(row: dict) -> dict:
    """Conversation from HuggingFaceH4/ultrachat_200k: `prompt, prompt_id` text, `messages` list of role and content.

    Also of any other file of `messages` lists (TRL's conversational form for SFT).

    Source: https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k (207,865 train_sft rows, MIT)
    """
    return {"messages": messages(row["messages"], "messages")}


def openhermes(row: dict) -> dict:
    """Conversation from teknium/openhermes: `instruction, input, output` text; input stands below the instruction.

    The later OpenHermes-2.5 is a `sharegpt` file. Source: https://huggingface.co/datasets/teknium/openhermes
    """
    asked = said("user", row["instruction"], "instruction")
    more = said("user", row["input"], "input")["content"].strip()
    if more:
        asked["content"] += "\n\n" + more
    return {"messages": [asked, said("assistant", row["output"], "output")]}


def sharegpt(row: dict) -> dict:
    """Conversation from any ShareGPT file: `conversations` list of `from` (human, gpt, system) and `value`.

    A `system` or `system_prompt` column beside it becomes the system turn, where the list has none and it says
    something. Schema as in teknium/OpenHermes-2.5.
    """
    return {"messages": _with_system(row, messages(row["conversations"], "conversations"))}


def sharegpt_pairs(row: dict) -> dict:
    """Pair from a ShareGPT preference file: `conversations` list, `chosen` and `rejected` each one `from` and `value`.

    Schema as in LLaMA-Factory's preference files and in samples of argilla/dpo-mix-7k.
    """
    asked = _with_system(row, messages(row["conversations"], "conversations"))
    sides = []
    for side in ("chosen", "rejected"):
        one = from_cell(row[side], "{")
        if not isinstance(one, dict):
            raise Unusable("wrong type", f"{side} is no message")
        sides.append(message(one, side))
    return {"prompt": asked, "chosen": [sides[0]], "rejected": [sides[1]]}


def message_pairs(row: dict) -> dict:
    """Pair from lists of messages (TRL's conversational form): `chosen, rejected`, and `prompt` where it stands apart.

    Without a `prompt` list both sides hold the whole conversation and part at their last message.
    """
    chosen, rejected = (messages(row[side], side) for side in ("chosen", "rejected"))
    prompt = row.get("prompt")
    if prompt is None or isinstance(prompt, str):
        return parted(chosen, rejected)
    if len(chosen) > 1 or len(rejected) > 1:
        raise Unusable("wrong type", "with a prompt list, each side is one message")
    return {"prompt": messages(prompt, "prompt"), "chosen": chosen, "rejected": rejected}


def _with_system(row: dict, found: list[dict]) -> list[dict]:
    """The messages with the row's own system text in front, unless they have one."""
    if found[0]["role"] == "system":
        return found
    told = [said("system", row.get(column), column) for column in ("system", "system_prompt")]
    return [*without_empty_system(told)[:1], *found]
