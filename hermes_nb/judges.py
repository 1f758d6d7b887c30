"""A simulated judge with planted biases, and how such biases are found and cancelled; no model, no key, no cost.

Language models that judge pairs of answers favour a position, the longer answer and perhaps their own writing: position
bias, verbosity bias and self-enhancement bias of https://arxiv.org/abs/2306.05685, Section 3.3. Here the first two are
planted, so that one can see whether a test finds what is there. Lesson: 05_evaluate.
"""

import math
import random
from dataclasses import dataclass

from hermes_nb.errors import DataProblem
from hermes_nb.evaluate import bootstrap, rate


@dataclass(frozen=True)
class Judge:
    """A judge of pairs whose log-odds for the answer shown first are a sum of three parts.

    `position_bias` (log-odds for being first) + `length_bias` times ln(length first / length second) +
    `quality_weight` times the difference in quality. All 0: a coin.
    """

    position_bias: float = 0.0
    length_bias: float = 0.0
    quality_weight: float = 1.0
    seed: int = 0

    def first_wins(self, pair: dict, swapped: bool = False) -> float:
        """Probability that the answer shown first wins; `swapped` shows b first."""
        sign = -1.0 if swapped else 1.0
        inside = (
            self.length_bias * math.log(pair["length_a"] / pair["length_b"]) + self.quality_weight * pair["quality"]
        )
        return 1 / (1 + math.exp(-(self.position_bias + sign * inside)))


def example_pairs(count: int, seed: int = 0) -> list[dict]:
    """Made-up pairs `{length_a, length_b, quality}`: lengths in tokens, quality of a over b between -1 and 1.

    Half of them have answers of equal quality, one about twice as long as the other (as if it were padded); which side
    is the long one, is drawn. The others are of like length, and b is the better one in most.
    """
    dice = random.Random(seed)
    pairs = []
    for number in range(count):
        length = dice.randint(30, 60)
        if number % 2:
            other, quality = round(length * dice.uniform(0.95, 1.05)), dice.uniform(-1.0, 0.5)
        else:
            other, quality = round(length * dice.uniform(1.7, 2.3)), 0.0
        a, b = (length, other) if dice.random() < 0.5 else (other, length)
        pairs.append({"length_a": a, "length_b": b, "quality": quality})
    return pairs


def verdicts(judge: Judge, pairs: list[dict], swapped: bool = False) -> list[str]:
    """The winner of each pair, `a` or `b`; a is shown first unless `swapped`. The same judge and pairs, the same list.

    Raises DataProblem for a pair with an empty answer: its length has no logarithm.
    """
    for number, pair in enumerate(pairs):
        if min(pair["length_a"], pair["length_b"]) <= 0:
            raise DataProblem(f"pair {number}: an answer of length 0 cannot be judged; leave empty answers out.")
    dice = random.Random(f"{judge.seed} {'b' if swapped else 'a'} first")
    first, second = ("b", "a") if swapped else ("a", "b")
    return [first if dice.random() < judge.first_wins(pair, swapped) else second for pair in pairs]


def both_orders(judge: Judge, pairs: list[dict]) -> list[str]:
    """Ask twice with the order swapped: `a` or `b` where both verdicts agree, else `tie` (MT-Bench's Section 3.4)."""
    asked = zip(verdicts(judge, pairs), verdicts(judge, pairs, swapped=True), strict=True)
    return [one if one == other else "tie" for one, other in asked]


def win_rate(found: list[str], side: str = "b") -> dict:
    """Win rate of `side` with a 95 % bootstrap interval; a tie counts one half. `{value, low, high, n}`."""
    return bootstrap([0.5 if verdict == "tie" else float(verdict == side) for verdict in found])


def like_length(pairs: list[dict], tolerance: float = 0.1) -> list[dict]:
    """The pairs whose answers differ in length by at most `tolerance` of the longer one.

    Swapping the order does not cancel a length bias: the longer answer is longer in both orders. This does.
    """
    return [
        p for p in pairs if min(p["length_a"], p["length_b"]) >= (1 - tolerance) * max(p["length_a"], p["length_b"])
    ]


def find_bias(judge: Judge, pairs: list[dict]) -> dict:
    """Estimate a judge's biases from its verdicts alone: `{first, longer, consistent}`, each `{value, low, high, n}`.

    `first`: share of verdicts for the answer shown first, every pair asked in both orders, so that quality and length
    cancel; 0.5 is unbiased. `longer`: share for the longer answer among pairs of equal quality, both orders again;
    0.5 is unbiased. `consistent`: share of pairs whose verdict stays when the order is swapped. n counts pairs.
    Raises DataProblem when no pair of equal quality and different length is there.
    """
    one, other = verdicts(judge, pairs), verdicts(judge, pairs, swapped=True)
    first = [((x == "a") + (y == "b")) / 2 for x, y in zip(one, other, strict=True)]
    longer = []
    for pair, x, y in zip(pairs, one, other, strict=True):
        if pair["quality"] == 0 and pair["length_a"] != pair["length_b"]:
            long_side = "a" if pair["length_a"] > pair["length_b"] else "b"
            longer.append(((x == long_side) + (y == long_side)) / 2)
    if not longer:
        raise DataProblem("find_bias: no pair of equal quality and different length; length bias cannot be told apart.")
    return {
        "first": bootstrap(first),
        "longer": bootstrap(longer),
        "consistent": rate(x == y for x, y in zip(one, other, strict=True)),
    }
