"""Rates and means with intervals, and what can be said from them: plain numbers in, no model. Lesson: 05_evaluate."""

import math
import random
import statistics

from hermes_nb.errors import DataProblem

Z = 1.959964  # two-sided 95 % of the normal distribution
Z_POWER = 0.841621  # one-sided 80 %


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate, `hits` of `n` (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    middle, spread = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = (middle - spread) / (1 + Z * Z / n), (middle + spread) / (1 + Z * Z / n)
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
    spread = Z * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"value": middle, "low": middle - spread, "high": middle + spread, "n": len(values)}


def bootstrap(values, seed: int = 0, draws: int = 2000) -> dict:
    """A mean with its 95 % percentile bootstrap interval: `{value, low, high, n}` (Efron 1979).

    Draws `n` of the values with replacement, `draws` times, and takes the middle 95 % of the means. It assumes no
    shape, but it cannot see what was never drawn: of equal values it gives an interval of width 0.
    Raises DataProblem when there is no value.
    """
    values = list(values)
    if not values:
        raise DataProblem("bootstrap: no values; give at least one.")
    dice = random.Random(seed)
    means = sorted(statistics.fmean(dice.choices(values, k=len(values))) for _ in range(draws))
    low, high = means[int(0.025 * draws)], means[math.ceil(0.975 * draws) - 1]
    return {"value": statistics.fmean(values), "low": low, "high": high, "n": len(values)}


def paired(a_flags, b_flags) -> dict:
    """Two models on the same questions: `{only_a, only_b, both, neither, p}`, p of the exact McNemar test.

    Only the questions where the two differ tell anything: were the models alike, each of those would be a fair coin
    (McNemar 1947, in its exact form a sign test). Two-sided; p is 1 where they never differ.
    Raises DataProblem when the lists differ in length, as they then cannot be of the same questions.
    """
    a, b = [bool(f) for f in a_flags], [bool(f) for f in b_flags]
    if len(a) != len(b):
        raise DataProblem(f"paired: {len(a)} flags against {len(b)}; give one of each for every question.")
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    both = sum(x and y for x, y in zip(a, b, strict=True))
    differ, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(differ, k) for k in range(fewer + 1)) / 2**differ
    return {
        "only_a": only_a, "only_b": only_b, "both": both, "neither": len(a) - differ - both, "p": min(1.0, 2 * tail),
    }  # fmt: skip


def calibration(margins, bins: int = 5) -> list[dict]:
    """Is a margin a probability? `bins` groups of equal size: `{predicted, accuracy: {value, low, high, n}, n}`.

    The claim is P(chosen preferred) = sigmoid(margin) (Bradley and Terry 1952; Eq. 1 of
    https://arxiv.org/abs/2305.18290). Which answer is called chosen is known beforehand, so the claim is tested for
    the side that the model prefers: with `predicted` = mean sigmoid(|margin|) it should be right in that share.
    Groups are made by |margin|, from small to large.
    """
    ordered = sorted(margins, key=abs)
    bins = min(bins, len(ordered))
    cuts = [round(k * len(ordered) / bins) for k in range(bins + 1)] if bins else []
    groups = [ordered[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return [
        {
            "predicted": statistics.fmean(1 / (1 + math.exp(-min(700.0, abs(m)))) for m in group),
            "accuracy": rate(m > 0 for m in group),
            "n": len(group),
        }
        for group in groups
    ]


def length_baseline(rows) -> dict:
    """How often a chooser that sees only lengths is right: `{longer, shorter, by_kind}`, rates with intervals.

    `rows` are pairs with `chosen`, `rejected` (messages) and `kind`; lengths are in characters, equal ones are wrong
    for both. `by_kind` has the same two rates for each kind.
    """
    gaps = [len(r["chosen"][0]["content"]) - len(r["rejected"][0]["content"]) for r in rows]
    kinds = [r["kind"] for r in rows]

    def choosers(mine: list[int]) -> dict:
        return {"longer": rate(g > 0 for g in mine), "shorter": rate(g < 0 for g in mine)}

    by_kind = {k: choosers([g for g, kind in zip(gaps, kinds, strict=True) if kind == k]) for k in sorted(set(kinds))}
    return choosers(gaps) | {"by_kind": by_kind}


def needed_votes(share: float, against: float = 0.5) -> int:
    """Votes needed to tell a win rate `share` from `against`: 80 % power, two-sided 5 %, normal approximation.

    n = ((1.96 sqrt(q(1-q)) + 0.84 sqrt(p(1-p))) / (p - q))^2 with p = share, q = against.
    Raises DataProblem when the two are equal: no number is enough.
    """
    if share == against:
        raise DataProblem("needed_votes: the two rates are equal; no number of votes can tell them apart.")
    spread = Z * math.sqrt(against * (1 - against)) + Z_POWER * math.sqrt(share * (1 - share))
    return math.ceil((spread / (share - against)) ** 2)
