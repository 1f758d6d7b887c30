"""Checks of the exercise of 01: a reader for a schema with a vote. Lesson: 01_preference_data."""

from collections.abc import Callable

from hermes_nb.exercises.common import Case, check, unsolved

HINT = (
    "a row has `question`, `answer_a`, `answer_b` and `better` ('a', 'b' or 'tie'). Give a dict of three lists of "
    "messages, prompt, chosen and rejected; strip the answers; give None for a tie or an empty answer."
)


def _pair(question: str, chosen: str, rejected: str) -> dict:
    """The conversational pair that must come out."""
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _row(question: str, answer_a: str, answer_b: str, better: str) -> dict:
    return {"question": question, "answer_a": answer_a, "answer_b": answer_b, "better": better}


CASES = (
    Case(
        "a is better",
        (_row("Is ice lighter than water?", "Yes, it floats.", "No.", "a"),),
        _pair("Is ice lighter than water?", "Yes, it floats.", "No."),
        "The answer named by `better` is chosen, the other one is rejected.",
    ),
    Case(
        "b is better",
        (_row("Is a tomato a fruit?", "No.", "To a botanist, yes.", "b"),),
        _pair("Is a tomato a fruit?", "To a botanist, yes.", "No."),
        "Chosen is not always the first answer: read `better`.",
    ),
    Case("tie", (_row("Tea or coffee?", "Tea.", "Coffee.", "tie"),), None, "A tie prefers nothing, so it is no pair."),
    Case(
        "empty answer",
        (_row("Name a river.", "The Danube.", " \n", "a"),),
        None,
        "An answer of blanks teaches nothing, even where the other one is good: test after stripping.",
    ),
    Case(
        "Unicode",
        (_row("Wie heißt das auf Japanisch?", "雨 (あめ) ☔", "Regen", "a"),),
        _pair("Wie heißt das auf Japanisch?", "雨 (あめ) ☔", "Regen"),
        "Letters of any script pass through unchanged: no encoding, no lower case.",
    ),
    Case(
        "leading blanks",
        (_row("How many legs has a spider?", "\n\n  Eight.", "Six. ", "a"),),
        _pair("How many legs has a spider?", "Eight.", "Six."),
        "Blanks before an answer can merge with the template's newline, so strip both answers.",
    ),
)


def reader(answer: Callable[[dict], dict | None]) -> bool:
    """Check a reader on six rows; prints what came of it and returns whether all hold.

    Worked by hand: rows 1 and 2 differ in the vote alone, so chosen is "Yes, it floats." (a) and "To a botanist, yes."
    (b). Row 3 is a tie and row 4 has an answer of a blank and a newline: None, no pair. Row 5 comes out letter by
    letter. Row 6 loses two newlines and two blanks before "Eight." and one blank after "Six.".
    """
    if all(_gives_nothing(answer, case) for case in CASES):
        return unsolved(HINT)
    return check(answer, CASES, HINT)


def _gives_nothing(answer: Callable, case: Case) -> bool:
    """Whether an answer is still the empty one of the exercise, for which None on a tie would count as right."""
    try:
        return answer(*case.given) in (None, ...)
    except Exception:  # a learner's code may raise anything; the check says so
        return False
