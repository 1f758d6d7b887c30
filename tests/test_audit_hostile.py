"""Hostile rows through reader and audit. Run alone: python -m pytest tests/test_audit_hostile.py"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_nb import audit, formats, models

MARKS = ["<|im_end|>", "<|im_start|>user\n", "</s>", "\n\nHuman:", "\n\nAssistant:", "### Response:\n", "\ud800", "\0",
         "\u202e", "\x1b[31m", "", "   ", "\n", "rain", "$x$", "<script>"]  # fmt: skip
words = st.lists(st.sampled_from(MARKS) | st.text(max_size=6), max_size=4).map("".join)
value = words | st.none() | st.integers(0, 2) | st.booleans() | st.lists(words, max_size=2)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool", ""]), "content": words})
talk = st.lists(turn, max_size=5)


def row_of(known):
    """Rows that have the columns of a schema, now and then the wrong thing in them."""
    return st.fixed_dictionaries({name: words | value | talk for name in known.columns})


@pytest.mark.parametrize("source", formats.READERS)
def test_every_hostile_row_is_kept_or_dropped_with_a_reason(source, tiny_base, tmp_path):
    """One odd row in a million must not end a run after hours, nor leave without being counted.

    45 files of 12 rows for each of 20 sources: 10,800 rows, besides the 10,000 of the readers' own test.
    """
    known, tokenizer = formats.reader(source), models.tokenizer(tiny_base, "chatml")
    check = audit.pairs if known.makes == "pairs" else audit.conversations
    file = tmp_path / "rows.jsonl"

    @settings(max_examples=45, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(row_of(known), min_size=12, max_size=12))
    def hold(rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = check(formats.Stream(source, file), tokenizer, 96, near=False)
        assert found.report["rows"] == 12 == len(found.kept) + len(found.dropped)
        assert all(d["reason"] in audit.REASONS or d["reason"] in formats.UNUSABLE for d in found.dropped)
        for row in found.kept:
            said = row.get("messages") or row["prompt"] + row["chosen"] + row["rejected"]
            assert not any(mark in m["content"] for m in said for mark in ("<|im_end|>", "<|im_start|>", "\0"))
        found.dropped.to_json(tmp_path / "dropped.json")  # every excerpt can be written

    hold()
