"""Genuine rows of public sets, from HERMES_REAL_DATA. Run alone: python -m pytest tests/test_formats_real.py"""

import os
import re
from pathlib import Path

import pytest

from hermes_nb import formats
from hermes_nb.errors import DataProblem

FOLDER = os.environ.get("HERMES_REAL_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="HERMES_REAL_DATA names no folder of real rows")

# file: source, rows kept, rows dropped by reason
FOUND = {
    "dpo_mix_sharegpt": ("sharegpt_pairs", 120, {}),
    "hh_rlhf_helpful_base": ("hh_rlhf", 249, {"prompts differ": 1}),
    "hh_rlhf_helpful_online": ("hh_rlhf", 100, {}),
    "orca_dpo_pairs": ("orca_dpo_pairs", 140, {}),
    "ultrafeedback_binarized_triples": ("plain_pairs", 175, {"no preference": 25}),
}


def file(name: str) -> Path:
    return Path(FOLDER) / f"{name}.jsonl"


@pytest.mark.parametrize("name", FOUND)
def test_every_genuine_row_is_kept_or_dropped_with_its_reason(name):
    """A reader that holds on our own rows alone would refuse the real set; one that takes all trains its faults."""
    source, kept, dropped = FOUND[name]
    assert formats.detect(file(name)) == source
    found = formats.read(source, file(name))
    reasons = [row["reason"] for row in found.dropped]
    assert {reason: reasons.count(reason) for reason in reasons} == dropped
    assert len(found.rows) == kept
    assert sorted([*found.rows["row"], *(row["row"] for row in found.dropped)]) == list(
        range(kept + sum(dropped.values()))
    )


def test_the_one_dialogue_with_two_prompts_is_row_168():
    """Its two sides were asked differently: compared, the better question would be rewarded."""
    assert [row["row"] for row in formats.read("hh_rlhf", file("hh_rlhf_helpful_base")).dropped] == [168]


def reference(whole: str) -> tuple[str, str]:
    """Prompt and answer by eric-mitchell's rule: the prompt ends with the last mark of the assistant, mark and all."""
    at = whole.rfind("\n\nAssistant:") + len("\n\nAssistant:")
    return whole[:at], whole[at:]


def blanks(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", ["hh_rlhf_helpful_base", "hh_rlhf_helpful_online"])
def test_genuine_dialogues_are_split_as_the_reference_splits_them(name):
    """Our messages joined again are the text before the last mark, the answer what follows it, on both sides."""
    names = {"user": "Human", "assistant": "Assistant"}
    compared = 0
    for number, row in enumerate(formats.raw_rows(file(name))):
        (prompt, chosen), (other, rejected) = reference(row["chosen"]), reference(row["rejected"])
        try:
            pair = formats.convert("hh_rlhf", row, number, name)
        except formats.Unusable as fault:
            assert fault.reason == "prompts differ"  # noqa: PT017
            assert blanks(prompt) != blanks(other)
            continue
        joined = "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in pair["prompt"]) + "\n\nAssistant:"
        assert blanks(joined) == blanks(prompt) == blanks(other), number
        assert [(m["role"], blanks(m["content"])) for m in pair["chosen"]] == [("assistant", blanks(chosen))], number
        assert [(m["role"], blanks(m["content"])) for m in pair["rejected"]] == [("assistant", blanks(rejected))], (
            number
        )
        compared += 1
    assert compared == FOUND[name][1]


def test_genuine_orca_rows_are_kept_word_for_word():
    """Nothing is stripped, cut or joined where the columns are the messages already."""
    rows = formats.read("orca_dpo_pairs", file("orca_dpo_pairs")).rows
    for row, raw in zip(rows, formats.raw_rows(file("orca_dpo_pairs")), strict=True):
        said = [m["content"] for part in ("prompt", "chosen", "rejected") for m in row[part]]
        assert said == [*filter(None, [raw["system"]]), raw["question"], raw["chosen"], raw["rejected"]]


def test_genuine_triples_are_kept_word_for_word():
    """Plain questions and answers hold headings, code and quotes, and no template: not one of them is taken apart.

    In row 172 the rejected answer runs on with three `### Response:` of its own: a bad answer, and still the answer.
    """
    rows, seen = list(formats.raw_rows(file("ultrafeedback_binarized_triples"))), set()
    for row in formats.read("plain_pairs", file("ultrafeedback_binarized_triples")).rows:
        raw = rows[row["row"]]
        seen.add(row["row"])
        assert [m["content"] for part in ("prompt", "chosen", "rejected") for m in row[part]] == [
            raw["prompt"], raw["chosen"], raw["rejected"],
        ]  # fmt: skip
    assert 172 in seen


def test_genuine_sharegpt_turns_are_kept_word_for_word():
    """Only an empty system turn is left out."""
    rows = formats.read("sharegpt_pairs", file("dpo_mix_sharegpt")).rows
    for row, raw in zip(rows, formats.raw_rows(file("dpo_mix_sharegpt")), strict=True):
        turns = [turn for turn in raw["conversations"] if turn["from"] != "system" or turn["value"].strip()]
        assert [m["content"] for m in row["prompt"]] == [turn["value"] for turn in turns]
        assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (
            raw["chosen"]["value"], raw["rejected"]["value"],
        )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["mt_bench_question", "mt_bench_reference_answer_gpt4", "mt_bench_judge_prompts",
     "mt_bench_model_answer_granite7b", "mt_bench_gpt4_single_judgments_granite7b"],
)  # fmt: skip
def test_files_that_are_no_training_data_are_refused_by_name(name):
    """Questions and judgments of a benchmark must not slip into training as some source that they resemble."""
    with pytest.raises(DataProblem, match=f"{name}.jsonl: columns .* fit no known source; (.*)") as error:
        formats.detect(file(name))
    named = re.search(r"fit no known source; (\w+)", str(error.value))
    assert named[1] in (*formats.READERS, "none")


def test_the_one_row_of_the_raw_set_has_one_answer():
    """UltraFeedback's README shows one of the row's four answers, unrated: nothing to compare."""
    name = "ultrafeedback_raw_readme_example"
    assert formats.detect(file(name)) == "ultrafeedback"
    with pytest.raises(DataProblem, match="fewer than two answers"):
        formats.read("ultrafeedback", file(name))


def test_a_genuine_judges_prompt_is_not_taken_apart_at_its_speakers():
    """`### Assistant A:` is a heading of MT-Bench's judge; read as Alpaca's mark, "A:" stands before each answer."""
    for row in formats.raw_rows(file("mt_bench_judge_prompts")):
        found = formats.unwrap(row["prompt_template"]) or []
        assert not [m for m in found if m["content"].startswith(("A:", "B:"))], row["name"]
