"""Run alone: python -m pytest tests/test_formats.py"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_nb import formats
from hermes_nb.errors import DataProblem, FileProblem, NetworkProblem

ORCA = {"system": "S", "question": "Q", "chosen": "good", "rejected": "bad"}


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_an_orca_row_becomes_a_pair_of_messages():
    """The system turn is kept, and an empty one is no turn."""
    pair = formats.orca_dpo_pairs(ORCA)
    assert pair["prompt"] == [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "good"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert formats.orca_dpo_pairs(ORCA | {"system": ""})["prompt"] == [{"role": "user", "content": "Q"}]


def test_an_ultrachat_row_becomes_messages():
    """Further keys of a message are left out: every row has the same columns."""
    row = {"prompt": "Q", "prompt_id": "1", "messages": [{"role": "user", "content": "Q", "extra": 1}]}
    assert formats.ultrachat_200k(row) == {"messages": [{"role": "user", "content": "Q"}]}


def test_rows_say_where_they_came_from(tmp_path):
    """A dropped row can only be found again by source and number."""
    rows = formats.load("orca_dpo_pairs", write(tmp_path / "p.jsonl", ORCA, ORCA | {"id": "c-7"}))
    assert [(r["source"], r["row"], r["kind"]) for r in rows] == [("orca_dpo_pairs", 0, ""), ("orca_dpo_pairs", 1, "c")]


def test_order_and_choice_of_rows_depend_on_the_seed_alone(tmp_path):
    """A run that cannot be repeated proves nothing."""
    file = write(tmp_path / "p.jsonl", *[ORCA | {"question": str(i)} for i in range(30)])
    take = lambda seed: formats.load("orca_dpo_pairs", file, limit=5, seed=seed)["row"]  # noqa: E731
    assert list(take(0)) == list(take(0))
    assert list(take(0)) != list(take(1))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"system": "", "question": "Q", "chosen": "a"}', "row 0: column 'rejected' is missing"),
        ('{"system": "", "question": "Q", "chosen": 3, "rejected": "b"}', "row 0"),
        ('{"system": "", "question": ["Q"], "chosen": "a", "rejected": "b"}', "row 0"),
        ("not json", "line 1: not JSON"),
        ("[1, 2]", "line 1: a row is a JSON object"),
        ("", "no rows"),
        ('{"system": "", "question": "\\ud800", "chosen": "a", "rejected": "b"}', "row 0"),
    ],
)
def test_a_wrong_row_is_named_with_its_file(lines, said, tmp_path):
    """An error deep in a library, without file or row, cannot be mended."""
    file = tmp_path / "p.jsonl"
    file.write_text(lines)
    with pytest.raises(DataProblem, match=said):
        formats.load("orca_dpo_pairs", file)


def test_a_file_in_another_encoding_is_said_with_its_line(tmp_path):
    """Read with replacement characters, it would train on mangled words."""
    file = tmp_path / "p.jsonl"
    file.write_bytes(
        json.dumps(ORCA).encode() + b"\n" + '{"question": "\u00e9"}'.encode("latin-1").replace(b"\\u00e9", b"\xe9")
    )
    with pytest.raises(DataProblem, match="line 2: not UTF-8"):
        formats.load("orca_dpo_pairs", file)


def test_an_unknown_source_and_a_missing_file_are_named():
    """The known sources and both places that were looked in are said."""
    with pytest.raises(DataProblem, match="orca_dpo_pairs, ultrachat_200k"):
        formats.load("orca")
    with pytest.raises(FileProblem, match="no such file"):
        formats.load("orca_dpo_pairs", "nowhere.jsonl")


def test_a_hub_set_without_a_network_is_said_with_the_way_out(monkeypatch):
    """A traceback of the hub's client does not say that a local file would do."""
    import datasets

    def no_network(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(NetworkProblem, match="local file"):
        formats.load("orca_dpo_pairs")


def test_the_source_of_a_file_is_detected_or_the_nearest_is_named(tmp_path):
    """Users do not know what their file's schema is called."""
    assert formats.detect("pairs_train.jsonl") == "orca_dpo_pairs"
    assert formats.detect("conversations_train.jsonl") == "ultrachat_200k"
    file = write(tmp_path / "odd.jsonl", {"system": "", "question": "Q", "chosen": "a"})
    with pytest.raises(DataProblem, match="orca_dpo_pairs comes nearest and misses rejected"):
        formats.detect(file)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(formats.READERS)),
    st.dictionaries(st.sampled_from([*ORCA, "messages", "x"]), anything, max_size=6),
)
def test_no_row_crashes_a_reader(source, row):
    """A hostile row ends in a pair, or in an error that names it; never in a traceback of Python's."""
    try:
        out = formats.convert(source, row, 0, "here")
    except DataProblem as error:
        said = str(error)
        assert "row 0" in said
    else:
        assert all(isinstance(m["content"], str) for k in ("prompt", "chosen", "messages") for m in out.get(k, []))


def test_real_rows_are_read_whole():
    """Rows in = rows out, on genuine rows of the public set (`HERMES_REAL_DATA`)."""
    folder = os.environ.get("HERMES_REAL_DATA")
    if not folder:
        pytest.skip("HERMES_REAL_DATA names no folder of real rows")
    file = Path(folder) / "orca_dpo_pairs.jsonl"
    rows = formats.load("orca_dpo_pairs", file)
    assert len(rows) == sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
