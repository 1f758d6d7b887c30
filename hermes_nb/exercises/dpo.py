"""Checks of 03_dpo's exercises: reward and margin, the smoothed loss, the IPO loss. Lesson: 03_dpo."""

import math
from collections.abc import Callable

from hermes_nb.exercises.common import Case, check, same

LN = math.log

START = "At the start policy and reference are the same model: nothing is gained, so all three are 0."
MARGINS = (
    Case("step 0", (-40.0, -50.0, -40.0, -50.0, 0.1), (0.0, 0.0, 0.0), START),
    Case(
        "chosen rises, rejected falls", (-30.0, -60.0, -40.0, -50.0, 0.1), (1.0, -1.0, 2.0),
        "Chosen gained -30 - (-40) = 10 nats, times 0.1 is +1; rejected lost 10, so -1; the margin is 1 - (-1).",
    ),
    Case(
        "both fall", (-45.0, -80.0, -40.0, -50.0, 0.1), (-0.5, -3.0, 2.5),
        "Chosen lost 5 nats (-0.5) and rejected lost 30 (-3.0): the margin is +2.5 all the same.",
    ),
)  # fmt: skip
SMOOTHED = (
    Case("margin 0, smoothing 0.1", (0.0, 0.1), LN(2), "sigmoid(0) = 1/2 on both sides: ln 2 whatever the smoothing."),
    Case(
        "margin ln 3, smoothing 0.1", (LN(3), 0.1), -0.9 * LN(3 / 4) - 0.1 * LN(1 / 4),
        "sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4: 0.9 x 0.2877 + 0.1 x 1.3863 = 0.3975.",
    ),
    Case(
        "margin ln 9, smoothing 0.1", (LN(9), 0.1), -0.9 * LN(9 / 10) - 0.1 * LN(1 / 10),
        "sigmoid(ln 9) = 0.9: 0.9 x 0.1054 + 0.1 x 2.3026 = 0.3251, the lowest point: no further pull.",
    ),
)  # fmt: skip
IPO = (
    Case("step 0", (0.0, 0.1), 25.0, "The goal is 1 / (2 x 0.1) = 5 nats a token, and h is 0: (0 - 5)^2 = 25."),
    Case(
        "on the goal", (1.0, 0.5), 0.0,
        "Chosen gained 3 nats over 10 tokens, rejected lost 14 over 20: h = 0.3 + 0.7 = 1, which is 1 / (2 x 0.5).",
    ),
    Case(
        "past the goal", (2.0, 0.5), 1.0,
        "Chosen gained 6 nats over 10 tokens, rejected lost 7 over 5: h = 0.6 + 1.4 = 2, the goal is 1: (2 - 1)^2.",
    ),
)  # fmt: skip


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# what a wrong answer may be: the formula behind it, and what it overlooks
MARGIN_MISTAKES = {
    "the sign is turned: reward is policy minus reference": lambda c, r, rc, rr, b: (
        b * (rc - c), b * (rr - r), b * (rc - c - rr + r),
    ),
    "the margin's sign is turned: it is chosen minus rejected": lambda c, r, rc, rr, b: (
        b * (c - rc), b * (r - rr), b * (r - rr - c + rc),
    ),
    "beta is missing": lambda c, r, rc, rr, b: (c - rc, r - rr, c - rc - r + rr),
    "the reference is missing": lambda c, r, rc, rr, b: (b * c, b * r, b * (c - r)),
    "beta must multiply, not divide": lambda c, r, rc, rr, b: ((c - rc) / b, (r - rr) / b, (c - rc - r + rr) / b),
    "only the margin came back: give all three, (reward_chosen, reward_rejected, margin)": (
        lambda c, r, rc, rr, b: b * (c - rc - r + rr)
    ),
}  # fmt: skip
SMOOTHED_MISTAKES = {
    "the two terms are swapped, or the margin's sign is: 1 - smoothing goes with log sigmoid(+margin)": lambda m, s: (
        -s * _log_sigmoid(m) - (1 - s) * _log_sigmoid(-m)
    ),
    "the smoothing is not used": lambda m, s: -_log_sigmoid(m),
    "the second term, for the labels that may be wrong, is missing": lambda m, s: -(1 - s) * _log_sigmoid(m),
    "the minus is missing: log sigmoid is negative, a loss is not": lambda m, s: (
        (1 - s) * _log_sigmoid(m) + s * _log_sigmoid(-m)
    ),
    "that is the `robust` loss: it subtracts the second term and divides by 1 - 2 smoothing": lambda m, s: (
        (s * _log_sigmoid(-m) - (1 - s) * _log_sigmoid(m)) / (1 - 2 * s)
    ),
}  # fmt: skip
IPO_MISTAKES = {
    "the sign of h is turned: it is chosen minus rejected": lambda h, b: (-h - 1 / (2 * b)) ** 2,
    "the goal 1 / (2 beta) is missing": lambda h, b: h**2,
    "the goal is 1 / (2 beta), not 1 / beta": lambda h, b: (h - 1 / b) ** 2,
    "the goal is 1 / (2 beta): `1 / 2 * beta` is read from the left and gives beta / 2": lambda h, b: (h - b / 2) ** 2,
    "h must not be multiplied by beta: beta only sets the goal": lambda h, b: (b * h - 1 / (2 * b)) ** 2,
    "the square is missing": lambda h, b: h - 1 / (2 * b),
    "it is a square, not a distance": lambda h, b: abs(h - 1 / (2 * b)),
    "that is DPO's loss: IPO has no sigmoid": lambda h, b: -_log_sigmoid(b * h),
}


def _judge(answer: Callable, cases: tuple, mistakes: dict, hint: str) -> bool:
    """Check `answer`; where it is wrong on all cases in a way that is known, say which."""
    if check(answer, cases, hint):
        return True
    try:
        found = [answer(*case.given) for case in cases]
    except Exception:  # a learner's code may raise anything; `check` has said so already
        return False
    for what, formula in mistakes.items():
        if same(found, [formula(*case.given) for case in cases]):
            print(f"It looks as if {what}.")
            break
    return False


def reward_margin(answer: Callable) -> bool:
    """Check `answer(logp_chosen, logp_rejected, ref_chosen, ref_rejected, beta)`: both rewards and the margin.

    Must give `(reward_chosen, reward_rejected, margin)`; log-probs are sums over an answer's tokens, in nats. By hand,
    beta 0.1, reference -40 and -50: policy the same: 0, 0, 0; policy -30 and -60: 0.1 x 10 = 1, 0.1 x -10 = -1, margin
    2; policy -45 and -80: 0.1 x -5 = -0.5, 0.1 x -30 = -3, margin 2.5.
    """
    hint = "reward = beta * (logp_policy - logp_reference), once for each answer; margin = chosen's minus rejected's."
    return _judge(answer, MARGINS, MARGIN_MISTAKES, hint)


def smoothed(answer: Callable) -> bool:
    """Check `answer(margin, smoothing)`: DPO's loss when a share `smoothing` of the labels may be wrong.

    loss = -(1 - s) log sigmoid(m) - s log sigmoid(-m). By hand, s = 0.1: m = 0 gives ln 2 = 0.6931; m = ln 3 gives
    -0.9 ln(3/4) - 0.1 ln(1/4) = 0.2589 + 0.1386 = 0.3975; m = ln 9 gives -0.9 ln 0.9 - 0.1 ln 0.1 = 0.0948 + 0.2303
    = 0.3251, where the slope sigmoid(-m) - s = 0.1 - 0.1 is 0.
    """
    hint = (
        "two terms: (1 - smoothing) times -log sigmoid(margin), for the labels that are right, and smoothing times "
        "-log sigmoid(-margin), for those that are not; sigmoid(x) = 1 / (1 + math.exp(-x))."
    )
    return _judge(answer, SMOOTHED, SMOOTHED_MISTAKES, hint)


def ipo(answer: Callable) -> bool:
    """Check `answer(h, beta)`: the IPO loss (h - 1 / (2 beta))^2 of one pair, https://arxiv.org/abs/2310.12036, Eq. 17.

    `h` is the log-ratio (logp_policy - logp_reference) of chosen minus that of rejected, each as the mean over its
    answer's tokens, as TRL takes it. By hand: h = 0, beta 0.1: (0 - 5)^2 = 25. +3 over 10 tokens, -14 over 20:
    h = 0.3 + 0.7 = 1, beta 0.5: (1 - 1)^2 = 0. +6 over 10, -7 over 5: h = 0.6 + 1.4 = 2: (2 - 1)^2 = 1.
    """
    hint = "the loss is the square of how far h is from its goal, and the goal is 1 / (2 * beta)."
    return _judge(answer, IPO, IPO_MISTAKES, hint)
