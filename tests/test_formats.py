"""Run alone: python -m pytest tests/test_formats.py"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
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


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def test_an_ultrafeedback_row_parts_at_its_last_message():
    """The user turn stands in both lists; left in, it would be trained as part of the answer."""
    row = {
        "chosen": [said("user", "Q"), said("assistant", "good")],
        "rejected": [said("user", "Q"), said("assistant", "bad")],
    }
    pair = formats.ultrafeedback_binarized(row)
    assert pair == {
        "prompt": [said("user", "Q")], "chosen": [said("assistant", "good")], "rejected": [said("assistant", "bad")],
    }  # fmt: skip
    with pytest.raises(DataProblem, match="different prompts"):
        formats.ultrafeedback_binarized(row | {"rejected": [said("user", "R"), said("assistant", "bad")]})


def test_a_row_without_a_message_is_named():
    """An empty list has no last message: Python's IndexError would name neither file nor row."""
    row = {"prompt": "", "chosen": [], "rejected": [], "score_chosen": 1.0, "score_rejected": 0.0}
    with pytest.raises(DataProblem, match="file, row 3: not as ultrafeedback_binarized promises"):
        formats.convert("ultrafeedback_binarized", row, 3, "file")


TALK = "\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant: "


def test_an_hh_dialogue_keeps_every_turn_before_the_last_answer():
    """Hermes-7b's script lost A1 and Q2 here, and trained the answer to Q2 as one to Q1."""
    pair = formats.hh_rlhf({"chosen": TALK + "good", "rejected": TALK + "bad"})
    assert pair["prompt"] == [said("user", "Q1"), said("assistant", "A1"), said("user", "Q2")]
    assert (pair["chosen"], pair["rejected"]) == ([said("assistant", "good")], [said("assistant", "bad")])


def test_a_mark_inside_a_line_is_text():
    """Split at "Assistant:" alone, a turn that quotes the word would be cut in two."""
    pair = formats.hh_rlhf({"chosen": TALK + "say Assistant: hi", "rejected": TALK + "Human: no"})
    assert (pair["chosen"], pair["rejected"]) == (
        [said("assistant", "say Assistant: hi")],
        [said("assistant", "Human: no")],
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [
        (TALK + "good", "\n\nHuman: Q1\n\nAssistant: bad", "different prompts"),
        ("\n\nHuman: Q", TALK + "bad", "a dialogue begins with"),
        ("Note.\n\nHuman: Q\n\nAssistant: A", TALK + "bad", "a dialogue begins with"),
    ],
)
def test_an_hh_row_that_is_no_pair_is_named(chosen, rejected, why):
    """Prompts that differ cannot be compared: DPO's formula has one prompt."""
    with pytest.raises(DataProblem, match=f"file, row 7: not as hh_rlhf promises .*{why}"):
        formats.convert("hh_rlhf", {"chosen": chosen, "rejected": rejected}, 7, "file")


@pytest.mark.parametrize(
    ("turns", "prompt_ends", "answer"), [(1, "Q1", "A1"), (2, "Q1", "A2"), (3, "Q2", "A3"), (4, "Q3", "A4")]
)
def test_the_published_parse_loses_one_exchange(turns, prompt_ends, answer):
    """The notebook shows the defect: right for one exchange, one exchange short for more.

    Pieces of Q1 A1 Q2 A2 at "Assistant: ": Q1 | A1 Q2 | A2, of which 3 - 2 = 1 is kept.
    """
    text = "".join(f"\n\nHuman: Q{i}\n\nAssistant: A{i}" for i in range(1, turns + 1))
    prompt, found = formats.hh_rlhf_as_published(text)
    assert prompt.endswith(f"{prompt_ends}\n\nAssistant: ")
    assert found == answer
    assert formats.hh_rlhf_as_published not in [known.read for known in formats.READERS.values()]


SAFETY = {
    "prompt": "Q", "response_0": "zero", "response_1": "one", "is_response_0_safe": False, "is_response_1_safe": True,
    "better_response_id": 0, "safer_response_id": 1,
}  # fmt: skip


def test_the_safer_answer_is_chosen_not_the_better_one():
    """Taken by `better_response_id`, a helpful but unsafe answer would be preferred."""
    assert formats.pku_saferlhf(SAFETY)["chosen"] == [said("assistant", "one")]
    assert formats.pku_saferlhf(SAFETY)["rejected"] == [said("assistant", "zero")]
    assert formats.pku_saferlhf(SAFETY | {"safer_response_id": 0})["chosen"] == [said("assistant", "zero")]
    with pytest.raises(DataProblem, match="row 0: .*neither 0 nor 1"):
        formats.convert("pku_saferlhf", SAFETY | {"safer_response_id": -1}, 0, "here")


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


def test_a_schema_that_lies_within_another_is_not_taken_for_it(tmp_path):
    """`chosen` and `rejected` are all of hh-rlhf, and part of three other sources; `messages` is in two."""
    for source in formats.READERS:
        assert formats.detect(write(tmp_path / "p.jsonl", dict.fromkeys(formats.READERS[source].columns))) == source
    whole = ("prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected")
    assert formats.detect(write(tmp_path / "p.jsonl", dict.fromkeys(whole))) == "ultrafeedback_binarized"
    with pytest.raises(DataProblem, match="orca_dpo_pairs comes nearest and misses system"):
        formats.detect(write(tmp_path / "p.jsonl", {k: v for k, v in ORCA.items() if k != "system"}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)  # a busy machine is no defect
@given(st.data())
def test_no_row_crashes_a_reader(data):
    """A hostile row ends in a pair, or in an error that names it; never in a traceback of Python's."""
    source = data.draw(st.sampled_from(sorted(formats.READERS)))
    columns = formats.READERS[source].columns
    pieces = st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", " a", "\n"]), max_size=6).map("".join)
    message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", 3]), "content": anything})
    value = anything | pieces | st.lists(message, max_size=3) | st.sampled_from([0, 1, True, 1.0])
    row = {c: data.draw(value) for c in columns} | data.draw(st.dictionaries(st.sampled_from(["x", "id"]), anything))
    row.pop(data.draw(st.sampled_from([*columns, "x"])), None)
    try:
        out = formats.convert(source, row, 0, "here")
    except DataProblem as error:
        words = str(error)
        assert "row 0" in words
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


@pytest.mark.parametrize("name", ["hh_rlhf_helpful_base", "hh_rlhf_helpful_online"])
def test_real_dialogues_are_read_but_for_known_faults(name):
    """A reader that holds on our own rows alone would refuse the real set (`HERMES_REAL_DATA`)."""
    folder = os.environ.get("HERMES_REAL_DATA")
    if not folder:
        pytest.skip("HERMES_REAL_DATA names no folder of real rows")
    file, pairs, faults = Path(folder) / f"{name}.jsonl", [], []
    assert formats.detect(file) == "hh_rlhf"
    for number, row in enumerate(formats.raw_rows(file)):
        try:
            pairs.append(formats.convert("hh_rlhf", row, number, name))
        except DataProblem as error:
            faults.append(str(error))
    assert len(faults) <= 0.03 * len(pairs)
    assert all("different prompts" in fault for fault in faults)
    assert all(pair["prompt"][-1]["role"] == "user" for pair in pairs[:100])
    assert not [p for p in pairs if "\n\nAssistant:" in p["chosen"][0]["content"]]
