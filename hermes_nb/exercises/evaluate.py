"""Checks of 05_evaluate's exercise: how many pairs tell 0.70 from 0.80? Lesson: 05_evaluate."""

import math
import random
from collections.abc import Callable

from hermes_nb.exercises.common import Case, check

RIGHT = "a power of 75 % to 85 %"
MOST = 5_000  # more than any of the cases needs; nothing larger is simulated
HINT = (
    "a difference of two rates has the variance (a (1 - a) + b (1 - b)) / n. Ask that a - b be 1.96 + 0.84 of its "
    "standard deviations: 1.96 for two-sided 5 %, 0.84 for 80 % power. Solve for n and round up."
)
CASES = (
    Case("0.70 against 0.80", (0.70, 0.80), RIGHT, "Look at what the variance of a difference is the sum of."),
    Case("0.80 against 0.70", (0.80, 0.70), RIGHT, "The order of the two rates must not matter."),
    Case("0.60 against 0.80", (0.60, 0.80), RIGHT, "Twice the difference needs about a quarter of the pairs."),
    Case("0.45 against 0.60", (0.45, 0.60), RIGHT, "The variance depends on the rates, not on their difference alone."),
)


def power(a: float, b: float, n: int, runs: int = 2000, seed: int = 0) -> float:
    """Share of `runs` simulated experiments that tell rates `a` and `b` apart, each on `n` pairs of its own.

    An experiment tells them apart when |z| > 1.96, z = difference / sqrt(2 p (1 - p) / n) with the pooled rate p. By
    hand: at 0.70, 0.80 and n = 291 the difference is 0.1 and its standard deviation sqrt(0.37 / 291) = 0.0357, so
    2.80 of them; the chance to exceed 1.96 is that of a normal number above -0.84, which is 80 %.
    """
    dice, told = random.Random(seed), 0
    for _ in range(runs):
        hits_a, hits_b = (sum(dice.random() < rate for _ in range(n)) for rate in (a, b))
        pooled = (hits_a + hits_b) / (2 * n)
        noise = math.sqrt(2 * pooled * (1 - pooled) / n)
        told += noise > 0 and abs(hits_a - hits_b) / n > 1.96 * noise
    return told / runs


def pairs_needed(answer: Callable) -> bool:
    """Check `answer(a, b)`: pairs for each model to tell rates `a` and `b` apart, 80 % power, two-sided 5 %.

    Simulated with a fixed seed; accepted is a power between 75 % and 85 %. For 0.70 against 0.80 the formula gives
    7.85 x 0.37 / 0.01 = 290.4, so 291; accepted is about 260 to 330.
    """

    def judged(a: float, b: float):
        n = answer(a, b)
        if n is None or n is ...:
            return n
        if isinstance(n, bool) or not isinstance(n, (int, float)) or not 2 <= n <= MOST:
            return f"{n!r}, which is no number of pairs between 2 and {MOST}"
        found = power(a, b, math.ceil(n))
        return RIGHT if 0.75 <= found <= 0.85 else f"n = {math.ceil(n)}, a power of {found:.0%}"

    done = check(judged, CASES, HINT)
    if done:
        print("These are pairs of its own for each model. On the same pairs, where the two models agree on most, fewer")
        print("do: if they differ on 20 % of the pairs (5 % one way, 15 % the other), about 155 tell 0.70 from 0.80.")
    return done
