"""What a model prefers: log-probabilities of held-out pairs, rewards, margins. Lessons: 03_dpo, 05_evaluate."""

from hermes_nb import reference
from hermes_nb.evaluate.rates import mean, rate


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
