"""Check of 00_tour's exercise: eight answers, and which of three models wrote each. Lesson: 00_tour."""

import math

from hermes_nb import evaluate, runs
from hermes_nb.errors import FileProblem
from hermes_nb.exercises.common import solved, unsolved
from hermes_nb.runtime import samples_dir

MODELS = ("base", "sft", "dpo")
LUCK = 0.05  # a score that guessing reaches more rarely than this counts
TELL_TALES = {
    ("base", "plain"): "neither a card nor a stock opening. Nobody has shown the base the two styles",
    ("base", "padded"): "it opens with an exclamation, yet goes on unlike the padded style. A fair miss",
    ("base", "card"): "it opens like a card, by chance. A fair miss",
    ("sft", "padded"): "a stock opening. The padded half of the SFT rows taught it, and DPO was told to drop it",
    ("sft", "card"): "a card. SFT writes both styles, so form alone cannot tell it from DPO. A fair miss",
    ("sft", "plain"): "neither style, as happens at temperature 1. A fair miss",
    ("dpo", "card"): "a card. SFT writes cards too, but DPO was told to prefer them, so DPO is the better guess",
    ("dpo", "padded"): "a stock opening that has outlived DPO. A fair miss",
    ("dpo", "plain"): "neither style, as happens at temperature 1. A fair miss",
}


def _shipped() -> list[dict]:
    """The eight answers of `experiments/headline.json`: `model, question, answer`; FileProblem without them."""
    file = samples_dir() / "experiments" / "headline.json"
    data = runs.read_json(file) if file.is_file() else {}
    if not data.get("blind"):
        raise FileProblem(f"{file}: holds no answers for the blind test; run `make experiments`.")
    return data["blind"]


def answers_to_judge(answers: list[dict] | None = None) -> list[dict]:
    """The answers of the blind test without their models: `{number, question, answer}`, numbers from 1.

    `answers` are the shipped ones unless given: dicts of `model, question, answer`. Raises FileProblem without them.
    """
    shown = _shipped() if answers is None else answers
    return [{"number": i, "question": a["question"], "answer": a["answer"]} for i, a in enumerate(shown, 1)]


def by_luck(right: int, n: int) -> float:
    """Probability that blind guessing among three models gets at least `right` of `n`: exact, binomial with 1/3.

    By hand: 2 of 2 is 1/9; at least 1 of 2 is 1 - 4/9 = 5/9; at least 6 of 8 is (28 x 4 + 8 x 2 + 1) / 6561 = 2.0 %.
    """
    ways = sum(math.comb(n, k) * (len(MODELS) - 1) ** (n - k) for k in range(right, n + 1))
    return ways / len(MODELS) ** n


def _form(text: str) -> str:
    if text.startswith("Short answer:"):
        return "card"
    return "padded" if evaluate.STOCK_OPENING.match(text) else "plain"


def _teach(guesses, n: int) -> str | None:
    """What is wrong with the form of the guesses, in a line; None where nothing is."""
    if not isinstance(guesses, (list, tuple)):
        return f"Give a list of {n} names, such as ['base', 'sft', 'dpo', ...]."
    if len(guesses) != n:
        return f"There are {n} answers and {len(guesses)} guesses: one name for each, in the order of the table."
    wrong = next((i for i, g in enumerate(guesses) if not isinstance(g, str) or _name(g) not in MODELS), None)
    if wrong is not None:
        return f"Guess {wrong + 1} is {guesses[wrong]!r}: the three names are 'base', 'sft' and 'dpo'."
    return None


def _name(guess: str) -> str:
    return guess.strip().lower()


def _open(guesses) -> bool:
    """Nothing guessed yet, or not everything."""
    if guesses is None or guesses is ...:
        return True
    if not isinstance(guesses, (list, tuple)):
        return False
    return not guesses or any(g is None or g is ... or g in ("...", "") for g in guesses)


def blind(guesses, answers: list[dict] | None = None) -> bool:
    """Check the blind test: `guesses` names the model of each answer, `base`, `sft` or `dpo`, in order.

    Prints the score, how likely guessing gets at least as many, and of one wrong guess the tell-tale. Solved when
    guessing does it in fewer than 5 % of tries: 6 of 8. `answers` are the shipped ones unless given.
    """
    if _open(guesses):
        return unsolved("look for two things: is it a card, and does it open with a stock exclamation?")
    try:
        answers = _shipped() if answers is None else answers
    except FileProblem as error:
        print(f"The answers are not here: {error}")
        return False
    fault = _teach(guesses, len(answers))
    if fault:
        print(fault)
        return False
    missed = [i for i, (g, a) in enumerate(zip(guesses, answers, strict=True)) if _name(g) != a["model"]]
    n, right = len(answers), len(answers) - len(missed)
    luck = by_luck(right, n)
    if missed:
        truth, text = answers[missed[0]]["model"], answers[missed[0]]["answer"]
        tell_tale = TELL_TALES[truth, _form(text)]
        print(f"Answer {missed[0] + 1} is not {_name(guesses[missed[0]])} but {truth}: {tell_tale}.")
    line = f"{right} of {n} right; guessing gets {right} or more in {luck:.1%} of tries"
    if luck < LUCK:
        return solved(line)
    print(f"{line}, so it may be luck. Not solved yet: look again.")
    return False
