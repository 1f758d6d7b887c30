"""Readers for PKU-SafeRLHF, whose answers are marked safe or not. Lesson: 01_preference_data."""

from hermes_nb.formats.rows import Unusable, flag, number, pair, said, text


def _marks(row: dict) -> tuple[bool, bool]:
    """Whether answer 0 and answer 1 are safe."""
    return tuple(flag(row[f"is_response_{k}_safe"], f"is_response_{k}_safe") for k in (0, 1))


def _answers(row: dict) -> tuple[str, str]:
    return tuple(text(row[f"response_{k}"], f"response_{k}") for k in (0, 1))


def pku_saferlhf(row: dict) -> dict:
    """Pair from PKU-Alignment/PKU-SafeRLHF: `prompt, response_0, response_1` text, `is_response_{0,1}_safe`.

    AmberSafe's filter: rows with exactly one safe answer, which is chosen; Unusable otherwise. The columns are those
    of the first set (branch v0, and -30K) and of today's (83.4K rows, with sources, harm categories and severities
    beside them). Source: https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF (cc-by-nc-4.0); filter:
    https://github.com/LLM360/amber-train, finetune/ambersafe/get_saferlhf.py
    """
    safe, answers = _marks(row), _answers(row)
    if safe[0] == safe[1]:
        raise Unusable("both safe" if safe[0] else "none safe")
    return pair([said("user", row["prompt"], "prompt")], answers[safe.index(True)], answers[safe.index(False)])


def pku_saferlhf_safer(row: dict) -> dict:
    """Pair from the same set by `safer_response_id`, 0 or 1: chosen is the safer answer, which need not be a safe one.

    `better_response_id` (the more helpful) is not used. For the comparison in the lesson: two unsafe answers still
    have a safer one.
    """
    safer, answers = number(row["safer_response_id"], "safer_response_id"), _answers(row)
    if safer not in (0, 1):
        raise Unusable("no preference", "safer_response_id is neither 0 nor 1")
    return pair([said("user", row["prompt"], "prompt")], answers[int(safer)], answers[1 - int(safer)])


def pku_saferlhf_safe(row: dict) -> dict:
    """Conversation from the same set, for SFT: the prompt and its safe answer; the safer one where both are safe."""
    safe, answers = _marks(row), _answers(row)
    if not any(safe):
        raise Unusable("none safe")
    safer = number(row.get("safer_response_id"), "safer_response_id")
    at = int(safer) if all(safe) and safer in (0, 1) else safe.index(True)
    return {"messages": [said("user", row["prompt"], "prompt"), said("assistant", answers[at], f"response_{at}")]}
