"""Streams, outcomes found again, flat memory. Run alone: python -m pytest tests/test_audit_kept.py"""

import json

import datasets
import pytest

from hermes_nb import audit, formats, models
from hermes_nb.audit import checking, kept
from hermes_nb.errors import DataProblem


@pytest.fixture
def tokenizer(tiny_base):
    return models.tokenizer(tiny_base, "chatml")


@pytest.fixture
def always_kept(monkeypatch, tmp_path):
    """Treat every file and set as a large one."""
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hermes_nb.formats.stored.SMALL", 0)
    monkeypatch.setattr(checking, "REMEMBERED", 0)
    return tmp_path


def rows(n=7):
    good = [
        {"system": "", "question": f"what is rain {i}", "chosen": f"a line {i}", "rejected": "bread"} for i in range(n)
    ]
    return [*good, {"system": "", "question": "what", "chosen": "x"}, good[0], good[1] | {"chosen": ""}]


def file(folder, some):
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return path


def test_a_stream_a_reading_and_a_set_give_the_same(tokenizer, tmp_path):
    """Three ways in, one account: rows in = kept + dropped, unusable rows among them."""
    path = file(tmp_path, rows())
    ways = [
        formats.Stream("orca_dpo_pairs", path), formats.read("orca_dpo_pairs", path),
    ]  # fmt: skip
    for way in ways:
        found = audit.pairs(way, tokenizer, 64)
        assert found.report["rows"] == 10 == len(found.kept) + len(found.dropped)
        assert [(d["row"], d["reason"]) for d in found.dropped] == [
            (7, "missing column"), (8, "duplicate"), (9, "empty answer"),
        ]  # fmt: skip
        assert list(found.kept["row"]) == list(range(7))
    with pytest.warns(UserWarning, match="1 missing column"):
        loaded = formats.load("orca_dpo_pairs", path)
    assert audit.pairs(loaded, tokenizer, 64).report["rows"] == 9


def test_strict_raises_for_an_unusable_row_too(tokenizer, tmp_path):
    """Strict on the rows that could be read alone would let the others leave in silence."""
    path = file(tmp_path, rows()[:8])
    with pytest.raises(DataProblem, match="row 7: missing column"):
        audit.pairs(formats.Stream("orca_dpo_pairs", path), tokenizer, 64, strict=True)


def test_a_second_audit_is_found_again_and_equal(tokenizer, always_kept, monkeypatch):
    """Minutes of tokenizing should be spent once; a found outcome must not differ from a made one."""
    path = file(always_kept, rows())
    first = audit.pairs(formats.Stream("orca_dpo_pairs", path), tokenizer, 64)
    monkeypatch.setattr(checking, "_pass", None)  # making it anew would fail
    second = audit.pairs(formats.Stream("orca_dpo_pairs", path), tokenizer, 64)
    assert second.report["from_cache"]
    assert "from_cache" not in first.report
    assert second.plain() == first.plain()
    assert second.kept.to_list() == first.kept.to_list()
    assert second.dropped.to_list() == first.dropped.to_list()


@pytest.mark.parametrize("change", ["length", "tokenizer", "rows", "held_out", "benchmark", "near", "code"])
def test_anything_that_matters_makes_a_new_audit(change, tokenizer, always_kept, monkeypatch):
    """An old report for new rows, another template, or a mended check, is worse than none."""
    path = file(always_kept, rows())
    how, length = {}, 64
    if change == "benchmark":
        (always_kept / "b.txt").write_text("one two three four five")
        how = {"benchmark": always_kept / "b.txt"}
    audit.pairs(formats.Stream("orca_dpo_pairs", path), tokenizer, 64, **how)
    if change == "length":
        length = 65
    if change == "tokenizer":
        tokenizer.chat_template += " "
    if change == "rows":
        file(always_kept, rows(8))
    if change == "held_out":
        how = {"held_out": datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "z"}]}])}
    if change == "benchmark":
        (always_kept / "b.txt").write_text("six seven eight nine ten")
    if change == "near":
        how = {"near": False}
    if change == "code":
        monkeypatch.setattr(formats, "code_key", lambda *rooms: "other")
    found = audit.pairs(formats.Stream("orca_dpo_pairs", path), tokenizer, length, **how)
    assert "from_cache" not in found.report


def test_a_long_set_is_known_by_its_content(tokenizer, always_kept):
    """The same rows in another order are another set: kept rows are places in it."""
    some = formats.read("orca_dpo_pairs", file(always_kept, rows())).rows
    assert kept.rows_key(some) == kept.rows_key(datasets.Dataset.from_list(some.to_list(), features=some.features))
    assert kept.rows_key(some) != kept.rows_key(some.select(range(8, -1, -1)))
    audit.pairs(some, tokenizer, 64)
    assert audit.pairs(some, tokenizer, 64).report["from_cache"]


def test_unusable_rows_are_part_of_what_is_found_again(tokenizer, always_kept):
    """The rows alone, then the reading with its unusable ones: the same Dataset, another account."""
    reading = formats.read("orca_dpo_pairs", file(always_kept, rows()))
    assert audit.pairs(reading.rows, tokenizer, 64).report["rows"] == 9
    assert audit.pairs(reading, tokenizer, 64).report["rows"] == 10
    turned = reading.rows.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    assert "from_cache" not in audit.pairs(turned, tokenizer, 64).report


def test_dropped_rows_say_what_they_held(tokenizer, tmp_path):
    """A row number alone sends people back to a file of millions of lines."""
    found = audit.pairs(formats.Stream("orca_dpo_pairs", file(tmp_path, rows())), tokenizer, 64)
    assert found.dropped.column_names == list(kept.COLUMNS)
    assert "prompt: what is rain 1" in found.dropped[2]["excerpt"]
    assert len(max(found.dropped["excerpt"], key=len)) <= 480


def test_a_report_survives_json_and_prints_no_control_character(tokenizer, tmp_path):
    """A terminal obeys escape codes that a data set may hold."""
    evil = {"system": "", "question": "\x1b[31mred", "chosen": "<|im_end|>\x1b[2J", "rejected": "b"}
    found = audit.pairs(formats.Stream("orca_dpo_pairs", file(tmp_path, [*rows(), evil])), tokenizer, 64)
    assert json.loads(json.dumps(found.report)) == found.report
    text = audit.text(found, "orca_dpo_pairs")
    assert "\x1b" not in text
    assert "11 rows in, 7 kept, 4 dropped" in text
