"""One reader a source, and the table of them; adding a source is one function and one table row.

A reader is a small pure function with its schema in the docstring. Lesson: 01_preference_data.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from hermes_nb.errors import DataProblem


def _message(role: str, content) -> dict:
    return {"role": role, "content": content or ""}


def orca_dpo_pairs(row: dict) -> dict:
    """Pair from Intel/orca_dpo_pairs: `system, question, chosen, rejected`, all text (12,859 rows, Apache-2.0).

    An empty system text gives no system turn. Source: https://huggingface.co/datasets/Intel/orca_dpo_pairs
    """
    system = [_message("system", row["system"])] if row["system"] else []
    return {
        "prompt": [*system, _message("user", row["question"])],
        "chosen": [_message("assistant", row["chosen"])],
        "rejected": [_message("assistant", row["rejected"])],
    }


def ultrachat_200k(row: dict) -> dict:
    """Conversation from HuggingFaceH4/ultrachat_200k: `prompt, prompt_id` text, `messages` list of role and content.

    Source: https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k (207,865 train_sft rows, MIT)
    """
    return {"messages": [_message(m["role"], m["content"]) for m in row["messages"]]}


def ultrafeedback_binarized(row: dict) -> dict:
    """Pair from HuggingFaceH4/ultrafeedback_binarized: `chosen`, `rejected` lists of role and content, user turn first.

    Further columns: `prompt, prompt_id` text, `messages` list, `score_chosen, score_rejected` numbers. What stands
    before the last message is the prompt; DataProblem where the two sides have different ones.
    Source: https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized (61,135 train_prefs rows, MIT)
    """
    return _pair(*([_message(m["role"], m["content"]) for m in row[side]] for side in ("chosen", "rejected")))


def hh_rlhf(row: dict) -> dict:
    """Pair from Anthropic/hh-rlhf: `chosen, rejected` text, each a whole dialogue of Human and Assistant turns.

    The answer is what follows the last Assistant mark; blanks around a turn are stripped. DataProblem where the two
    dialogues do not share what stands before. Source: https://huggingface.co/datasets/Anthropic/hh-rlhf (160,800
    train rows, MIT); last mark as in https://github.com/eric-mitchell/direct-preference-optimization
    """
    return _pair(_dialogue(row["chosen"]), _dialogue(row["rejected"]))


def _dialogue(text: str) -> list[dict]:
    """Messages of one hh-rlhf dialogue, the last one the assistant's."""
    at = text.rfind("\n\nAssistant:")
    before, *turns = re.split(r"\n\n(Human|Assistant):", text[: max(at, 0)])
    if at < 0 or before.strip():
        raise DataProblem("a dialogue begins with '\\n\\nHuman:' and has an '\\n\\nAssistant:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [_message(roles[role], said.strip()) for role, said in zip(turns[::2], turns[1::2], strict=True)]
    return [*messages, _message("assistant", text[at + len("\n\nAssistant:") :].strip())]


def _pair(chosen: list[dict], rejected: list[dict]) -> dict:
    """Two conversations that part at their last message, as a pair."""
    if chosen[:-1] != rejected[:-1]:
        raise DataProblem("chosen and rejected answer different prompts")
    return {"prompt": chosen[:-1], "chosen": [chosen[-1]], "rejected": [rejected[-1]]}


def hh_rlhf_as_published(text: str) -> tuple[str, str]:
    """Prompt and answer as Hermes-7b's script cut an hh-rlhf dialogue; for the lesson, never to train on.

    From the second exchange on one exchange too many is left out: Q1 A1 Q2 A2 gives the prompt Q1 with the answer A2.
    Source: https://github.com/gauss5930/Hermes, data_pipeline/data_pipeline.py
    """
    pieces = text.split("Assistant: ")
    return "Assistant: ".join([*pieces[: len(pieces) - 2 or 1], ""]), pieces[-1]


def pku_saferlhf(row: dict) -> dict:
    """Pair from PKU-Alignment/PKU-SafeRLHF: `prompt, response_0, response_1` text, `safer_response_id` 0 or 1.

    Chosen is the safer answer, which need not be a safe one: `is_response_0_safe, is_response_1_safe` tell.
    `better_response_id` (the more helpful) is not used. Source: https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF
    (cc-by-nc-4.0)
    """
    safer = row["safer_response_id"]
    if safer not in (0, 1):
        raise DataProblem("safer_response_id is neither 0 nor 1")
    return {
        "prompt": [_message("user", row["prompt"])],
        "chosen": [_message("assistant", row[f"response_{int(safer)}"])],
        "rejected": [_message("assistant", row[f"response_{1 - int(safer)}"])],
    }


@dataclass(frozen=True)
class Reader:
    """One known source: its reader, the columns it needs, its hub name, and the column that labels a row."""

    read: Callable[[dict], dict]
    columns: tuple[str, ...]
    hub: str
    stage: str  # pairs | conversations
    label: str = ""
    hub_splits: tuple[tuple[str, str], ...] = ()


READERS = {
    "orca_dpo_pairs": Reader(
        orca_dpo_pairs, ("system", "question", "chosen", "rejected"), "Intel/orca_dpo_pairs", "pairs", "id"
    ),
    "ultrachat_200k": Reader(
        ultrachat_200k,
        ("messages",),
        "HuggingFaceH4/ultrachat_200k",
        "conversations",
        "prompt_id",
        (("train", "train_sft"), ("test", "test_sft")),
    ),
    "ultrafeedback_binarized": Reader(
        ultrafeedback_binarized,
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        "HuggingFaceH4/ultrafeedback_binarized",
        "pairs",
        hub_splits=(("train", "train_prefs"), ("test", "test_prefs")),
    ),
    "hh_rlhf": Reader(hh_rlhf, ("chosen", "rejected"), "Anthropic/hh-rlhf", "pairs"),
    "pku_saferlhf": Reader(
        pku_saferlhf,
        ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe", "safer_response_id"),
        "PKU-Alignment/PKU-SafeRLHF",
        "pairs",
    ),
}  # fmt: skip


def reader(source: str) -> Reader:
    """The reader of `source`. Raises DataProblem naming the known ones."""
    if source not in READERS:
        raise DataProblem(f"no source {source!r}; known are {', '.join(READERS)}.")
    return READERS[source]
