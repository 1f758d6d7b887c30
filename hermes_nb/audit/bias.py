"""What gives the label away without reading: lengths, and words of one side only. Lesson: 01_preference_data."""

import math
import re
from collections import Counter

WORD = re.compile(r"\w+|[^\w\s]")
SAMPLE = 600  # pairs that the word rule looks at
FROM = 30  # pairs below which a share says nothing


def length_rule(lengths: list[tuple[int, int]]) -> dict:
    """How often chosen is the longer answer, and how often the better of the two length rules finds it.

    `lengths` are (chosen, rejected) in tokens. `accuracy` counts a tie as half right; 0.5: length says nothing.
    """
    n = len(lengths)
    longer, shorter = sum(c > r for c, r in lengths), sum(c < r for c, r in lengths)
    ties = n - longer - shorter
    return {
        "n": n, "longer": longer / n if n else 0.0, "shorter": shorter / n if n else 0.0,
        "accuracy": (max(longer, shorter) + ties / 2) / n if n else 0.0,
        "mean_gap": sum(c - r for c, r in lengths) / n if n else 0.0,
    }  # fmt: skip


def _words(text: str) -> set[str]:
    """Words of an answer, and its first and last one as such: openings and endings give most away."""
    words = WORD.findall(text.lower())
    return {*words, f"first: {words[0]}", f"last: {words[-1]}"} if words else set()


def word_rule(pairs: list[tuple[str, str]], shown: int = 10) -> dict:
    """How often a rule that only counts words finds chosen, and the words that tell most.

    Naive Bayes over the words that only one of the two answers has, learned on the even pairs and tried on the odd
    ones, then the other way round. `pairs` are (chosen, rejected) texts; `accuracy` counts a tie as half right.
    """
    bags = [(_words(c), _words(r)) for c, r in pairs[:SAMPLE]]
    sides = [(c - r, r - c) for c, r in bags]
    right = 0.0
    for fold in (0, 1):
        odds = _log_odds(sides[fold::2])
        for chosen, rejected in sides[1 - fold :: 2]:
            gap = sum(odds.get(w, 0.0) for w in chosen) - sum(odds.get(w, 0.0) for w in rejected)
            right += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    told = sorted(_log_odds(sides).items(), key=lambda item: -abs(item[1]))[:shown]
    only = [Counter(w for side in sides for w in side[k]) for k in (0, 1)]
    return {
        "n": len(sides), "accuracy": right / len(sides) if len(sides) > 1 else 0.0,
        "words": [{"word": w, "chosen_only": only[0][w], "rejected_only": only[1][w]} for w, _ in told],
    }  # fmt: skip


def _log_odds(sides: list[tuple[set, set]]) -> dict[str, float]:
    """Log-odds of a word to stand in chosen alone against rejected alone, one added to both counts."""
    chosen, rejected = (Counter(w for side in sides for w in side[k]) for k in (0, 1))
    return {w: math.log((chosen[w] + 1) / (rejected[w] + 1)) for w in {*chosen, *rejected}}


def quantiles(lengths) -> dict:
    """Smallest, 5 %, median, 95 %, 99 % and largest of some lengths."""
    import numpy as np

    if not len(lengths):
        return {}
    names = ("min", "p05", "p50", "p95", "p99", "max")
    found = np.quantile(np.asarray(lengths), (0, 0.05, 0.5, 0.95, 0.99, 1), method="nearest")
    return {name: int(value) for name, value in zip(names, found, strict=True)}


def languages(texts: list[str]) -> dict[str, int]:
    """Languages of a sample of texts, most frequent first; texts under 20 letters are `too short`.

    By py3langid (https://github.com/adbar/py3langid) on the first 300 characters: good for whole sentences, rough
    for code and lists.
    """
    import py3langid

    found = Counter()
    for text in texts:
        letters = sum(map(str.isalpha, text[:300]))
        found[py3langid.classify(text[:300])[0] if letters >= 20 else "too short"] += 1
    return dict(found.most_common())
