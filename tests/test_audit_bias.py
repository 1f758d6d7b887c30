"""What tells the label without reading. Run alone: python -m pytest tests/test_audit_bias.py"""

import random

import datasets
import pytest

from hermes_nb import audit, models
from hermes_nb.audit import bias

WORDS = ["rain", "bread", "table", "river", "mill", "lamp", "flag", "bridge", "yard", "flood"]


def test_the_length_rule_by_hand():
    """Four pairs: longer, longer, shorter, equal. Longer is right in 2 of 4, with half the tie 2.5 of 4 = 0.625."""
    found = bias.length_rule([(5, 3), (9, 1), (2, 4), (3, 3)])
    assert found == {"n": 4, "longer": 0.5, "shorter": 0.25, "accuracy": 0.625, "mean_gap": (2 + 8 - 2 + 0) / 4}
    assert bias.length_rule([])["accuracy"] == 0.0


def test_a_marker_that_stands_on_one_side_is_found():
    """Rejected answers that all begin alike teach a model that beginning, and nothing else."""
    draw = random.Random(0)
    text = lambda: " ".join(draw.choices(WORDS, k=8))  # noqa: E731
    told = bias.word_rule([(text(), f"As an assistant, {text()}") for _ in range(60)])
    assert told["accuracy"] == 1.0
    assert {"word": "first: as", "chosen_only": 0, "rejected_only": 60} in told["words"]
    fair = bias.word_rule([(text(), text()) for _ in range(400)])
    assert 0.4 < fair["accuracy"] < 0.6


def test_no_pair_is_judged_by_words_it_gave_itself():
    """Learned and tried on the same pairs, a rule of thousands of words is right on any set."""
    told = bias.word_rule([(f"only{i}a", f"only{i}b") for i in range(100)])
    assert told["accuracy"] == 0.5


def test_quantiles_by_hand():
    """Of 0 to 100 the median is 50 and the 99th percentile 99."""
    found = bias.quantiles(list(range(101)))
    assert (found["min"], found["p50"], found["p99"], found["max"]) == (0, 50, 99, 100)
    assert bias.quantiles([]) == {}


def test_languages_are_counted_and_short_texts_said():
    """A set believed English may not be; a single word has no language."""
    texts = [
        "This is a plain English sentence about the weather.",
        "Das ist ein deutscher Satz \u00fcber das Wetter.",
        "ok",
    ]
    assert bias.languages(texts) == {"en": 1, "de": 1, "too short": 1}


@pytest.mark.parametrize(("longer", "told"), [(True, True), (False, False)])
def test_a_set_that_gives_its_labels_away_is_said(longer, told, tiny_base):
    """Reward accuracy on such a set says nothing about reading."""
    draw = random.Random(1)
    text = lambda n: " ".join(draw.choices(WORDS, k=n))  # noqa: E731
    rows = []
    for i in range(60):
        chosen = text(12 if longer or i % 2 else 6)
        rejected = text(6 if longer or i % 2 else 12)
        said = (("prompt", "user", text(9)), ("chosen", "assistant", chosen), ("rejected", "assistant", rejected))
        said = (("prompt", "user", text(9)), ("chosen", "assistant", chosen), ("rejected", "assistant", rejected))
        row = {name: [{"role": role, "content": content}] for name, role, content in said}
        rows.append(row | {"source": "here", "row": i})
    found = audit.pairs(datasets.Dataset.from_list(rows), models.tokenizer(tiny_base, "chatml"), near=False)
    assert ("length tells the label" in found.report["warnings"]) is told
    assert found.report["length_rule"]["accuracy"] == (1.0 if longer else 0.5)
    assert found.report["kept"] == 60  # warned, not dropped
