"""What a model writes, counted by rule: style, stopping, length. Lessons: 00_tour, 05_evaluate."""

import re

from hermes_nb import generate
from hermes_nb.evaluate.rates import mean, rate
from hermes_nb.generate import Answer

CARD = re.compile(r"Short answer: [^\n]+\nWhy: [^\n]+\nTry this: [^\n]+")
STOCK_OPENING = re.compile(r"[A-Z][^.?!\n]{3,70}!")  # "Great question!": the first sentence is an exclamation
CARD_TOKENS = 75  # the longest card of the sample rows

PLAIN_QUESTIONS = (
    "What is a rainbow?",
    "Why do leaves change colour in autumn?",
    "How do I boil an egg?",
    "Name three uses of a pencil.",
    "What is the capital of France?",
    "Why is sleep good for us?",
    "How do I say thank you to a neighbour?",
    "What does a gardener do?",
)


def style(answer: Answer) -> dict:
    """Style of one answer by rule: `card, full_card, padded, stops` (bool) and `tokens`.

    `card` begins as one, `full_card` has its three lines and nothing else, `padded` opens with a stock exclamation.
    """
    return {
        "card": answer.text.startswith("Short answer:"),
        "full_card": bool(CARD.fullmatch(answer.text)),
        "padded": bool(STOCK_OPENING.match(answer.text)),
        "stops": answer.stops,
        "tokens": answer.tokens,
    }


def form_score(answer: Answer) -> int:
    """Form of one answer in points from 0 to 10: form alone, neither truth nor quality.

    5 for a full card (2 where only its opening is there), 3 for ending by itself, 2 for at most 75 tokens. An empty
    answer has no form: 0.
    """
    found = style(answer)
    if not answer.text:
        return 0
    card = 5 if found["full_card"] else 2 if found["card"] else 0
    return card + 3 * found["stops"] + 2 * (found["tokens"] <= CARD_TOKENS)


def summary(answers: list[Answer]) -> dict:
    """Rates of each style and of stopping, and mean tokens, each with interval and n."""
    styles = [style(a) for a in answers]
    return {k: mean(s[k] for s in styles) if k == "tokens" else rate(s[k] for s in styles) for k in styles[0]}


def written(model, tokenizer, rows, recipe, seed: int = 0) -> dict[str, list[Answer]]:
    """The model's answers to the questions of `rows`: `sampled` (temperature 1) and `greedy`, where asked for.

    The recipe's `evaluate` says how many questions, samples of each and tokens at most. Sampled answers come round by
    round: answer i is to question i modulo the number of questions.
    """
    how = recipe.evaluate
    prompts = [generate.prompt_of(row) for row in rows.select(range(min(how.questions, len(rows))))]
    sampling = generate.SAMPLED | {"temperature": how.temperature}
    kinds = {"sampled": (prompts * how.samples, sampling), "greedy": (prompts[: how.greedy_questions], generate.GREEDY)}
    return {
        name: generate.answers(model, tokenizer, asked, how.max_new_tokens, way, seed, how.batch_size)
        for name, (asked, way) in kinds.items()
        if asked
    }


def behaviour(model, tokenizer, rows, recipe, seed: int = 0) -> dict:
    """What the model writes to the questions of `rows`: summaries of `sampled` (temperature 1) and `greedy` answers.

    The recipe's `evaluate` says how many questions, samples of each and tokens at most.
    """
    return {name: summary(answers) for name, answers in written(model, tokenizer, rows, recipe, seed).items()}


def plain_stops(model, tokenizer, count: int, max_new_tokens: int = 160) -> dict:
    """How many of `count` plain questions, without a system prompt, get a greedy answer that ends by itself."""
    asked = [[{"role": "user", "content": q}] for q in PLAIN_QUESTIONS[:count]]
    answers = generate.answers(model, tokenizer, asked, max_new_tokens)
    return {"stops": rate(a.stops for a in answers), "answers": [a.text for a in answers]}
