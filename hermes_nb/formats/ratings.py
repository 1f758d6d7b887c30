"""Readers for sets in which answers are rated or ranked: Orca's pairs and UltraFeedback's three forms.

Lesson: 01_preference_data.
"""

import random

from hermes_nb.formats.rows import Unusable, items, messages, number, pair, parted, said, text, without_empty_system

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def orca_dpo_pairs(row: dict) -> dict:
    """Pair from Intel/orca_dpo_pairs: `system, question, chosen, rejected`, all text (12,859 rows, Apache-2.0).

    Older files name the last two `chatgpt` and `llama2-13b-chat`. An empty system text gives no system turn.
    Source: https://huggingface.co/datasets/Intel/orca_dpo_pairs
    """
    system = without_empty_system([said("system", row["system"], "system")])
    names = ("chosen", "rejected") if "chosen" in row else ("chatgpt", "llama2-13b-chat")
    return pair([*system, said("user", row["question"], "question")], *(text(row[name], name) for name in names))


def ultrafeedback_binarized(row: dict) -> dict:
    """Pair from HuggingFaceH4/ultrafeedback_binarized: `chosen`, `rejected` lists of role and content, user turn first.

    Further columns: `prompt, prompt_id` text, `messages` list, `score_chosen, score_rejected` numbers. What stands
    before the last message is the prompt. Unusable where the two sides have different ones, or equal scores.
    Source: https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized (61,135 train_prefs rows, MIT)
    """
    better, worse = (number(row[f"score_{side}"], f"score_{side}") for side in ("chosen", "rejected"))
    _differ(better, worse)
    return parted(*(messages(row[side], side) for side in ("chosen", "rejected")))


def ultrafeedback_binarized_preferences(row: dict) -> dict:
    """Pair from argilla/ultrafeedback-binarized-preferences: `instruction, chosen_response, rejected_response` text.

    `chosen_avg_rating, rejected_avg_rating` are means of the four aspects; Unusable where they are equal. The set is
    not cleaned of TruthfulQA's questions: audit it against that file.
    Source: https://huggingface.co/datasets/argilla/ultrafeedback-binarized-preferences (63,619 rows)
    """
    _differ(*(number(row[f"{side}_avg_rating"], f"{side}_avg_rating") for side in ("chosen", "rejected")))
    answers = (text(row[f"{side}_response"], f"{side}_response") for side in ("chosen", "rejected"))
    return pair([said("user", row["instruction"], "instruction")], *answers)


def _differ(better: float | None, worse: float | None) -> None:
    """Raise Unusable where two ratings are the same; a missing one says nothing."""
    if better is not None and better == worse:
        raise Unusable("no preference", f"both rated {better:g}")


def ultrafeedback(row: dict, against: str = "second", by: str = "overall") -> dict:
    """Pair from openbmb/UltraFeedback: `instruction` text, `completions` list of up to four rated answers.

    Chosen is the best answer. Rejected is, with `against="second"`, the best of those rated lower (Hermes-7b's choice),
    with `against="random"` any of those rated lower, drawn by a hash of the instruction (Zephyr's choice). `by` is
    `overall` (`overall_score`, 1 to 10) or `aspects` (the mean of four ratings, 1 to 5). Before 2023-12-29, 2,628
    answers had an overall score of 10 that should be 1; the aspects were right. Answers without a rating are left out.
    Source: https://huggingface.co/datasets/openbmb/UltraFeedback (63,967 rows, MIT)
    """
    rated = []
    for answer in items(row["completions"], "completions"):
        rating = score(answer, by)
        if rating is not None:
            rated.append((rating, text(answer.get("response"), "response")))
    if len(rated) < 2:
        raise Unusable("fewer than two answers", f"{len(rated)} of {len(row['completions'])} are rated")
    rated.sort(key=lambda answer: -answer[0])  # stable: the first of equals stays first
    worse = [answer for answer in rated if answer[0] < rated[0][0]]
    if not worse:
        raise Unusable("no preference", f"all {len(rated)} rated {rated[0][0]:g}")
    asked = said("user", row["instruction"], "instruction")
    rejected = random.Random(asked["content"]).choice(worse) if against == "random" else worse[0]
    return pair([asked], rated[0][1], rejected[1])


def score(answer: dict, by: str = "overall") -> float | None:
    """Rating of one UltraFeedback answer; None where it has none."""
    if by == "overall":
        return number(answer.get("overall_score"), "overall_score")
    notes = answer.get("annotations")
    found = [_rating(notes.get(aspect)) for aspect in ASPECTS] if isinstance(notes, dict) else []
    found = [rating for rating in found if rating is not None]
    return sum(found) / len(found) if found else None


def _rating(note) -> float | None:
    """`Rating` of one aspect: text such as "4" or "N/A"; some snapshots hold a list of one."""
    note = note[0] if isinstance(note, list) and note else note
    return number(note.get("Rating"), "Rating") if isinstance(note, dict) else None
