"""Better, by how much, how sure: rates with 95 % intervals from generated answers and held-out rows.

What is taught at `tiny` is form, not facts, so a rule can count it and no judge is needed. Lesson: 05_evaluate.
"""

import math
import re
import statistics
from contextlib import nullcontext
from pathlib import Path

from hermes_nb import generate, models, reference, runs
from hermes_nb.generate import Answer

CARD = re.compile(r"Short answer: [^\n]+\nWhy: [^\n]+\nTry this: [^\n]+")
STOCK_OPENING = re.compile(r"[A-Z][^.?!\n]{3,70}!")  # "Great question!": the first sentence is an exclamation

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


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate, `hits` of `n` (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)


def rate(flags) -> dict:
    """A rate with its 95 % interval: `{value, low, high, n}`."""
    flags = list(flags)
    low, high = interval(sum(flags), len(flags))
    return {"value": sum(flags) / max(1, len(flags)), "low": low, "high": high, "n": len(flags)}


def mean(values) -> dict:
    """A mean with its 95 % interval from the normal approximation: `{value, low, high, n}`."""
    values = list(values)
    middle = statistics.fmean(values)
    spread = 1.959964 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"value": middle, "low": middle - spread, "high": middle + spread, "n": len(values)}


def summary(answers: list[Answer]) -> dict:
    """Rates of each style and of stopping, and mean tokens, each with interval and n."""
    styles = [style(a) for a in answers]
    return {k: mean(s[k] for s in styles) if k == "tokens" else rate(s[k] for s in styles) for k in styles[0]}


def behaviour(model, tokenizer, rows, recipe, seed: int = 0) -> dict:
    """What the model writes to the questions of `rows`: summaries of `sampled` (temperature 1) and `greedy` answers.

    The recipe's `evaluate` says how many questions, samples of each and tokens at most.
    """
    how = recipe.evaluate
    prompts = [generate.prompt_of(row) for row in rows.select(range(min(how.questions, len(rows))))]
    sampling = generate.SAMPLED | {"temperature": how.temperature}
    kinds = {"sampled": (prompts * how.samples, sampling), "greedy": (prompts[: how.greedy_questions], generate.GREEDY)}
    return {
        name: summary(generate.answers(model, tokenizer, asked, how.max_new_tokens, way, seed, how.batch_size))
        for name, (asked, way) in kinds.items()
        if asked
    }


def margins(logps: tuple[list[float], list[float]], start: tuple[list[float], list[float]], beta: float) -> list[float]:
    """Margin of each pair from summed log-probabilities `(chosen, rejected)` of the policy and of the reference."""
    return [beta * ((c - rc) - (r - rr)) for c, r, rc, rr in zip(*logps, *start, strict=True)]


def preferences(
    logps: tuple[list[float], list[float]], start: tuple[list[float], list[float]] | None, beta: float, kinds
):
    """Scores of held-out pairs from summed log-probabilities `(chosen, rejected)` of a model and of the reference.

    `logp_accuracy`: the model itself finds chosen likelier. With a reference also `accuracy` (reward of chosen above
    that of rejected, strictly, so 0 before training by definition) and `margin`, in all and by kind of pair.
    """
    chosen, rejected = logps
    out = {"logp_accuracy": rate(c > r for c, r in zip(chosen, rejected, strict=True))}
    if start is None:
        return out
    each = margins(logps, start, beta)
    out |= {"accuracy": rate(m > 0 for m in each), "margin": mean(each), "by_kind": {}}
    for kind in sorted(set(kinds)):
        mine = [m for m, k in zip(each, kinds, strict=True) if k == kind]
        out["by_kind"][kind] = {"accuracy": rate(m > 0 for m in mine), "margin": mean(mine)}
    return out


def held_out(model, tokenizer, conversations, pairs, start=None, beta: float = 0.1) -> tuple[dict, tuple]:
    """Held-out scores of one model, and its summed log-probabilities for use as another model's reference.

    `conversations` may be None. Returns `(scores, (chosen, rejected))`.
    """
    logps = reference.pair_logps(model, tokenizer, pairs)
    scores = preferences(logps, start, beta, pairs["kind"])
    if conversations is not None:
        scores["sft_loss"] = mean(reference.conversation_losses(model, tokenizer, conversations))
    return scores, logps


def plain_stops(model, tokenizer, count: int, max_new_tokens: int = 160) -> dict:
    """How many of `count` plain questions, without a system prompt, get a greedy answer that ends by itself."""
    asked = [[{"role": "user", "content": q}] for q in PLAIN_QUESTIONS[:count]]
    answers = generate.answers(model, tokenizer, asked, max_new_tokens)
    return {"stops": rate(a.stops for a in answers), "answers": [a.text for a in answers]}


def compare(recipe, adapters: dict, merged, pairs, conversations=None) -> dict:
    """Score base, each adapter of `adapters` (name to folder, in order) and the folder `merged` on held-out rows.

    Returns name to `{sampled, greedy, held_out, plain}`. DPO's rewards take the stage before it as the reference.
    """
    part = recipe.model
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    model = models.load_4bit(part.base, revision=part.revision, needs_gb=recipe.needs_gb)
    if adapters:
        model = models.load_adapters(model, adapters)
    out, start = {}, None
    for name in ("base", *adapters):
        with models.active(model, name) if adapters else nullcontext():
            out[name], start = _score(model, tokenizer, recipe, pairs, conversations, start if name == "dpo" else None)
    if merged is not None:
        del model
        plain = models.load_plain(str(merged), models.saved_dtype(merged))
        out["merged"], _ = _score(plain, tokenizer, recipe, pairs, conversations, None)
    return out


def _score(model, tokenizer, recipe, pairs, conversations, start) -> tuple[dict, tuple]:
    """All that is measured of one model, and its log-probabilities as a reference for the next."""
    scores, logps = held_out(model, tokenizer, conversations, pairs, start, recipe.dpo.beta)
    out = behaviour(model, tokenizer, pairs, recipe, recipe.seed) | {"held_out": scores}
    if recipe.evaluate.plain_questions:
        out["plain"] = plain_stops(model, tokenizer, recipe.evaluate.plain_questions)
    return out, logps


def text(report: dict) -> str:
    """The report as a table for a terminal: each figure with its 95 % interval."""
    columns = ("card", "padded", "stops", "tokens")
    lines = [f"{'model':8} {'answers':12}" + "".join(f"{c:>20}" for c in columns)]
    for name, scores in report.items():
        for kind in (k for k in ("sampled", "greedy") if k in scores):
            cells = "".join(f"{_cell(scores[kind][c], c == 'tokens'):>20}" for c in columns)
            lines.append(f"{name:8} {kind + ' n=' + str(scores[kind]['card']['n']):12}{cells}")
        held = scores["held_out"]
        parts = [
            f"{k} {_cell(held[k], False)}" for k in ("logp_accuracy", "accuracy", "margin", "sft_loss") if k in held
        ]
        lines.append(f"{name:8} held-out     " + ", ".join(parts))
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """The report's rates as a Markdown table: sampled answers at temperature 1, with 95 % intervals."""
    lines = ["| model | cards | padded | ends by itself | tokens | n |", "|---|---|---|---|---|---|"]
    for name, scores in report["metrics"].items():
        sampled = scores["sampled"]
        shares = [
            f"{v['value']:.0%} ({v['low']:.0%} to {v['high']:.0%})"
            for v in map(sampled.get, ("card", "padded", "stops"))
        ]
        lines.append(f"| {name} | {' | '.join(shares)} | {sampled['tokens']['value']:.0f} | {sampled['card']['n']} |")
    return "\n".join([*lines, "", report["note"]])


def _cell(figure: dict, plain: bool) -> str:
    unit = "{:.1f}" if plain else "{:.2f}"
    return " ".join([unit.format(figure["value"]), f"[{unit.format(figure['low'])}, {unit.format(figure['high'])}]"])


def report(run) -> dict:
    """The evidence of a run directory, `reports/evaluate.json`: model name to scores with 95 % intervals.

    Raises FileProblem when the evaluate stage has not been run.
    """
    return runs.read_json(Path(run) / "reports" / "evaluate.json")["metrics"]
