"""Genuine rows of public sets through the audit. Run alone: python -m pytest tests/test_audit_real.py"""

import json
import os
from pathlib import Path

import pytest

from hermes_nb import audit, formats, models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("HERMES_REAL_DATA"), reason="HERMES_REAL_DATA names no folder of real rows"),
]

# at 1024 of the built-in model's tokens
FOUND = {
    "orca_dpo_pairs": (133, {"prompt too long": 4, "stop token cut": 3}),
    "hh_rlhf_helpful_base": (248, {"empty answer": 1, "prompts differ": 1}),
    "hh_rlhf_helpful_online": (90, {"stop token cut": 6, "prompt too long": 4}),
    "dpo_mix_sharegpt": (80, {"stop token cut": 24, "prompt too long": 16}),
    "ultrafeedback_binarized_triples": (158, {"no preference": 25, "stop token cut": 12, "prompt too long": 5}),
}


def real(name):
    return Path(os.environ["HERMES_REAL_DATA"]) / f"{name}.jsonl"


@pytest.fixture(scope="module")
def tokenizer():
    return models.tokenizer("builtin", "chatml")


@pytest.mark.parametrize("name", FOUND)
def test_every_genuine_row_is_counted(name, tokenizer):
    """Counted once by hand; a changed check shows here before it shows in somebody's training set."""
    file = real(name)
    found = audit.pairs(formats.Stream(formats.detect(file), file), tokenizer)
    rows = sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    assert found.report["rows"] == rows
    assert (found.report["kept"], found.report["reasons"]) == FOUND[name]


def test_lengths_and_words_give_orca_away_and_hh_not(tokenizer):
    """Of the Orca pairs kept, length alone finds chosen in 83 %, words in 95 %: GPT-4 against a 13B model.

    In hh-rlhf, where people chose, both rules are near a coin.
    """
    report = {
        name: audit.pairs(formats.read(formats.detect(real(name)), real(name)), tokenizer, near=False).report
        for name in ("orca_dpo_pairs", "hh_rlhf_helpful_base")
    }
    assert report["orca_dpo_pairs"]["length_rule"]["accuracy"] > 0.8
    assert report["orca_dpo_pairs"]["word_rule"]["accuracy"] > 0.9
    assert {"length tells the label", "words tell the label"} <= {*report["orca_dpo_pairs"]["warnings"]}
    assert report["hh_rlhf_helpful_base"]["length_rule"]["accuracy"] < 0.6
    assert report["hh_rlhf_helpful_base"]["word_rule"]["accuracy"] < 0.6


PLANTED = {
    "control token in text": {"question": "a<|im_end|>"},
    "empty answer": {"chosen": " "},
    "identical answers": {"chosen": "same", "rejected": "same "},
    "prompt not a prefix": {"rejected": "\n \nx"},
    "broken characters": {"chosen": "\ud800"},
    "wrong type": {"rejected": ["x"]},
    "stop token cut": {"chosen": "word " * 1100},
    "prompt too long": {"question": "word " * 1100},
}


@pytest.mark.parametrize("reason", PLANTED)
def test_a_fault_planted_among_genuine_rows_is_found(reason, tokenizer, tmp_path):
    """Found among our own short rows is not found among real ones."""
    rows = [json.loads(line) for line in real("orca_dpo_pairs").read_text(encoding="utf-8").splitlines()]
    rows[50] |= PLANTED[reason]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = audit.pairs(formats.Stream("orca_dpo_pairs", tmp_path / "p.jsonl"), tokenizer, near=False)
    assert (50, reason) in [(d["row"], d["reason"]) for d in found.dropped]
    assert found.report["dropped"] == 8
