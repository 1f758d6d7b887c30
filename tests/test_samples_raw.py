"""Promises about the sample rows in other sources' schemas, and about the messy ones.

Run alone: python -m pytest tests/test_samples_raw.py
"""

import hashlib
import importlib.util
import json
from collections import Counter

import pytest

from hermes_nb import audit, formats, models
from hermes_nb.runtime import samples_dir

RAW = ("ultrafeedback_binarized", "hh_rlhf", "pku_saferlhf")


def read(name):
    with open(samples_dir() / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def module(name):
    spec = importlib.util.spec_from_file_location(name, samples_dir() / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("source", RAW)
def test_each_file_is_known_by_its_schema_and_read_whole(source):
    """A sample that its own reader refuses, or takes for another source, teaches the wrong schema."""
    file = f"{source}.jsonl"
    assert formats.detect(file) == source
    found = formats.read(source, file)
    assert 12 <= len(found.rows) + len(found.dropped) == len(read(file)) <= 16
    # the safety filter keeps rows with exactly one safe answer, and counts the others
    assert {d["reason"] for d in found.dropped} == ({"both safe", "none safe"} if source == "pku_saferlhf" else set())


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("ultrafeedback_binarized", "prompt prompt_id chosen rejected messages score_chosen score_rejected"),
        ("hh_rlhf", "chosen rejected"),
        ("pku_saferlhf", "prompt response_0 response_1 is_response_0_safe is_response_1_safe better_response_id "
         "safer_response_id"),
    ],
)  # fmt: skip
def test_columns_are_those_of_the_source(source, columns):
    """Rows in a schema of our own would pass here and fail on the hub's."""
    assert {tuple(row) for row in read(f"{source}.jsonl")} == {tuple(columns.split())}


def test_ultrafeedback_rows_hold_together():
    """The user turn opens both sides, `messages` is the chosen side, and chosen has the higher score."""
    for row in read("ultrafeedback_binarized.jsonl"):
        assert row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest()
        assert row["chosen"][0] == row["rejected"][0] == {"content": row["prompt"], "role": "user"}
        assert row["messages"] == row["chosen"]
        assert row["score_chosen"] > row["score_rejected"]


def test_some_text_has_more_tokens_than_characters_would_tell():
    """The lesson's scatter needs rows in which one character is not a quarter of a token."""
    assert sum(not row["prompt"].isascii() for row in read("ultrafeedback_binarized.jsonl")) >= 2


def test_hh_dialogues_have_one_two_and_three_exchanges():
    """The published parse is right for one exchange and wrong for more: both must be there to see."""
    turns = Counter(row["chosen"].count("\n\nAssistant:") for row in read("hh_rlhf.jsonl"))
    assert set(turns) == {1, 2, 3}


def test_safety_rows_fill_all_four_cells():
    """A 2x2 table with an empty cell shows no filter; an answer marked safer is never the only unsafe one."""
    rows = read("pku_saferlhf.jsonl")
    cells = Counter((r["is_response_0_safe"], r["is_response_1_safe"]) for r in rows)
    assert len(cells) == 4
    assert min(cells.values()) >= 2
    for row in rows:
        safe = row["is_response_0_safe"], row["is_response_1_safe"]
        assert safe[row["safer_response_id"]] or not any(safe)
    assert [r for r in rows if r["better_response_id"] != r["safer_response_id"]]


@pytest.fixture(scope="module")
def messy():
    return module("messy")


def test_messy_rows_are_what_the_builder_writes(messy):
    """A row mended by hand would be undone by the next build."""
    build = module("build")
    rows = messy.rows(build.read("train"))
    assert (samples_dir() / "messy.jsonl").read_text(encoding="utf-8") == messy.text(rows)
    assert rows == messy.rows(build.read("train"))
    assert rows[0]["chosen"] == build.card(build.read("train")[0])


def test_messy_holds_every_fault_twice(messy):
    """One row of a kind can be an accident; every reason of the audit is there, or cannot occur in this schema."""
    rows = read("messy.jsonl")
    names = Counter(row["id"].rsplit("-", 1)[0] for row in rows)
    assert len(rows) == 60
    impossible = {
        "roles", "repeated role", "last turn", "render unlike generation", "BOS doubled", "BOS not printed",
        "stop token not last", "stop token doubled", "stop token untrained", "also held out", "in the benchmark",
    }  # fmt: skip
    assert {*messy.FAULTS} == ({*audit.REASONS} - impossible) | {"missing column", "wrong type"}
    assert names.pop("ok") == 28
    assert names == {name.replace(" ", "-"): 2 for name in (*messy.FAULTS, *messy.WARNED)}


@pytest.mark.slow
def test_the_audit_finds_exactly_what_was_planted():
    """With the built-in tokenizer at 384 tokens: the lesson's bars must show what was planted, and nothing else."""
    rows = formats.Stream("orca_dpo_pairs", "messy.jsonl")
    found = audit.pairs(rows, models.tokenizer("builtin", "chatml"), 384)
    planted = {i: row["id"].rsplit("-", 1)[0].replace("-", " ") for i, row in enumerate(read("messy.jsonl"))}
    names = {name.replace("-", " "): name for name in audit.WARNINGS}
    warned = {i: names[name] for i, name in planted.items() if name in names}
    assert {r["row"]: r["reason"] for r in found.dropped} == {
        i: name for i, name in planted.items() if name != "ok" and i not in warned
    }
    assert {r["row"]: r["warning"] for r in found.report["warned_rows"]} == warned
    assert found.report["rows"] == 60 == found.report["kept"] + found.report["dropped"]


@pytest.mark.slow
def test_samples_of_other_sources_survive_the_audit():
    """By the built-in tokenizer at the course's length; a sample row dropped in the lesson would need an excuse."""
    tokenizer = models.tokenizer("builtin", "chatml")
    for source in RAW:
        assert audit.pairs(formats.read(source, f"{source}.jsonl").rows, tokenizer, 384).report["dropped"] == 0
