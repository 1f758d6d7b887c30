"""What the trained model and every candidate are asked: held-out pairs and prompts, and what they say to them.

Lesson: 04_merge.
"""

from dataclasses import dataclass
from pathlib import Path

from hermes_nb import evaluate, generate, models, reference
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.formatting import rows_of
from hermes_nb.merge import faithful
from hermes_nb.runtime import give_back

TOKENS = 2000  # of held-out answers on which expectations are compared; more would fill the memory


@dataclass(frozen=True)
class Asked:
    """What every model is asked: held-out pairs (the first `TOKENS` of their answers for KL), prompts to answer."""

    tokenizer: object
    pairs: object
    prompts: list
    max_new_tokens: int
    beta: float


@dataclass(frozen=True)
class Told:
    """What one model said: what it expects, the log-probabilities of the pairs, which of its answers end."""

    expected: list
    logps: tuple
    stops: list[bool]


def asked(recipe, run: Path, pairs: int, questions: int, max_new_tokens: int) -> Asked:
    """The first `pairs` held-out pairs of `run` and `questions` prompts of them.

    Raises FileProblem without held-out rows: on rows of training the figures would say nothing.
    """
    if pairs < 1 or questions < 1:
        raise RecipeProblem(f"merge: {pairs} pairs and {questions} questions; at least one of each is needed.")
    held_out = rows_of(run, "dpo").get("held_out")
    if not held_out:
        raise FileProblem(f"{run}: has no held-out pairs to measure on; give the recipe's dpo a `held_out` source.")
    part = recipe.model
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    chosen = held_out.select(range(min(pairs, len(held_out))))
    prompts = [generate.prompt_of(row) for row in held_out.select(range(min(questions, len(held_out))))]
    return Asked(tokenizer, chosen, prompts, max_new_tokens, recipe.dpo.beta)


def trained(recipe, adapter: Path, start: Path | None, asked: Asked) -> tuple[Told, tuple, float]:
    """What base and adapter in 4 bits say, the reference's log-probabilities, and the KL of the base without any."""
    part = recipe.model
    adapters = {"trained": adapter} | ({"start": start} if start else {})
    model = models.load_adapters(models.load_4bit(part.base, revision=part.revision), adapters)
    with models.active(model, "trained"):
        told = said(model, asked, keep=True)
    with models.active(model, "start" if start else "base"):
        start_logps = reference.pair_logps(model, asked.tokenizer, asked.pairs)
    with models.active(model, "base"):
        bare = faithful.divergence(told.expected, _expected(model, asked))["kl"]
    return told, start_logps, bare


def said(model, asked: Asked, keep: bool = False) -> Told:
    """Ask one model; unless `keep`, its expectations are read once, as they come."""
    give_back()
    expected = _expected(model, asked)
    if keep:
        expected = list(expected)
    logps = reference.pair_logps(model, asked.tokenizer, asked.pairs)
    answers = generate.answers(model, asked.tokenizer, asked.prompts, asked.max_new_tokens)
    return Told(expected, logps, [answer.stops for answer in answers])


def _expected(model, asked: Asked):
    return faithful.expected(model, asked.tokenizer, asked.pairs, TOKENS)


def figures(trained: Told, told: Told, start: tuple, asked: Asked) -> dict:
    """One candidate against the trained model."""
    scores = rates(told, start, asked)
    before = rates(trained, start, asked)
    change = {f"{key}_change": scores[key]["value"] - before[key]["value"] for key in scores}
    return faithful.divergence(trained.expected, told.expected) | scores | change


def rates(told: Told, start: tuple, asked: Asked) -> dict:
    """Reward accuracy and stop rate with their intervals."""
    margins = evaluate.margins(told.logps, start, asked.beta)
    return {"accuracy": evaluate.rate(m > 0 for m in margins), "stops": evaluate.rate(told.stops)}
