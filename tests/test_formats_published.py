"""Run alone: python -m pytest tests/test_formats_published.py"""

import json
import re

import pytest
from test_formats_readers import ROWS, SAFETY, rated, said, talk

from hermes_nb import formats
from hermes_nb.errors import DataProblem
from hermes_nb.formats import as_published


def published(system: str, source: str, row: dict) -> dict:
    """`row` as the published system made it, without what says where it came from."""
    found = formats.loading.converted(as_published.reader(source, system), source, row, 0, {})
    return {k: v for k, v in found.items() if k not in ("kind", "source", "row")}


# what every variant makes of the row "question Q, answers good and bad", and the words that name its defect
MADE = {
    ("hermes", "hh_rlhf"): (
        {"prompt": "<|user|>\nQ</s>\n<|assistant|>\n", "chosen": "good", "rejected": "bad"}, "no stop token",
    ),
    ("hermes", "rlhf_reward"): (
        {"prompt": "<|user|>\nQ</s>\n<|assistant|>\n", "chosen": "good", "rejected": "bad"}, "wherever that stands",
    ),
    ("hermes", "ultrafeedback"): (
        {"prompt": "<|user|>\nQ</s>\n<|assistant|>\n", "chosen": "good", "rejected": "bad"}, "equal scores",
    ),
    ("hermes", "hermes_preference"): (
        {"prompt": "<|user|>\nQ</s>\n<|assistant|>\n", "chosen": "good", "rejected": "bad"}, "stop token|tag|limit",
    ),
    ("hermes", "ultrachat"): ({"text": "<|user|>\nQ</s><|assistant|>\ngood</s>"}, "without a newline between"),
    ("hermes_full", "ultrachat"): ({"messages": [said("user", "Q")]}, "every assistant turn is dropped"),
    ("dpopenhermes", "orca_dpo_pairs"): (
        {"prompt": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "chosen": "good<|im_end|>",
         "rejected": "bad<|im_end|>"}, "holds its stop token already",
    ),
    ("dpopenhermes", "ultrafeedback_binarized_preferences"): (
        {"prompt": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "chosen": "good<|im_end|>",
         "rejected": "bad<|im_end|>"}, "stop token",
    ),
    ("neuralhermes", "orca_dpo_pairs"): (
        {"prompt": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "chosen": "good<|im_end|>\n",
         "rejected": "bad<|im_end|>\n"}, "newline after the stop token",
    ),
    ("ambersafe", "pku_saferlhf"): ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, "without a template"),
    ("ambersafe", "pku_saferlhf_safe"): ({"text": "Qgood"}, "one row a prompt"),
    ("zephyr", "ultrafeedback_binarized"): (
        {"prompt": "<|system|>\n</s>\n<|user|>\nQ</s>\n", "chosen": "<|assistant|>\ngood</s>\n",
         "rejected": "<|assistant|>\nbad</s>\n"}, "no generation prompt",
    ),
    ("zephyr", "ultrachat_200k"): (
        {"text": "<|system|>\n</s>\n<|user|>\nQ</s>\n<|assistant|>\ngood</s>\n"}, "empty system turn",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("system", "source"), formats.VARIANTS)
def test_every_variant_makes_the_published_text_and_names_its_defect(system, source):
    """A lesson that shows a defect must show the real one, byte for byte, and say what it is."""
    text, defect = MADE[system, source]
    assert published(system, source, ROWS[source]) == text
    assert re.search(defect, " ".join(formats.VARIANTS[system, source].__doc__.split()))


@pytest.mark.parametrize(("system", "source"), formats.VARIANTS)
def test_no_variant_is_ever_the_default(system, source):
    """Whoever asks for a source by its name gets the repaired reader, in the table, in `load` and in `detect`."""
    assert not {*formats.VARIANTS.values()} & {known.read for known in formats.READERS.values()}
    default = formats.convert(source, ROWS[source], 0, "file")
    assert {k: default[k] for k in default if k in MADE[system, source][0]} != MADE[system, source][0]


def test_an_unknown_variant_is_named_with_those_there_are(tmp_path):
    """Read with the default instead, a comparison would compare a thing with itself."""
    (tmp_path / "p.jsonl").write_text(json.dumps(ROWS["orca_dpo_pairs"]))
    for source, system in (("orca_dpo_pairs", "hermes"), ("sharegpt", "zephyr"), ("nothing", "zephyr")):
        with pytest.raises(DataProblem, match=rf"{source}: no variant '{system}' .*neuralhermes \(orca_dpo_pairs\)"):
            formats.read(source, tmp_path / "p.jsonl", variant=system)
    with pytest.raises(DataProblem, match="no option"):  # the scripts had no choices
        formats.read("ultrafeedback", tmp_path / "p.jsonl", variant="hermes", against="second")


@pytest.mark.parametrize(
    ("exchanges", "kept", "answer"),
    [(1, "Q1", "A1"), (2, "Q1", "A2"), (3, "Q1 A1 Q2", "A3"), (4, "Q1 A1 Q2 A2 Q3", "A4")],
)
def test_hermes_loses_one_exchange_from_the_second_on(exchanges, kept, answer):
    """Q1 A1 Q2 A2 at "Assistant: ": Q1 | A1 Q2 | A2, three pieces of which range(3 - 2) keeps one: Q1, answered by A2.

    The reader of the table keeps Q1 A1 Q2 for A2. Past answers carry the mistyped tag.
    """
    said_in_turn = [f"{who}{i}" for i in range(1, exchanges + 1) for who in "QA"]
    whole = talk(*said_in_turn)
    prompt, found = formats.hh_rlhf_as_published(whole)
    assert (prompt.split()[1::2], found) == (kept.split(), answer)
    row = {"chosen": whole, "rejected": whole}
    tags = {"Q": "<|user|>", "A": "<|assitant|>"}
    rendered = "".join(f"{tags[what[0]]}\n{what}</s>" for what in kept.split())
    assert published("hermes", "hh_rlhf", row)["prompt"] == rendered + "\n<|assistant|>\n"
    assert [m["content"] for m in formats.hh_rlhf(row)["prompt"]] == said_in_turn[:-1]


def test_hermes_limits_characters_and_calls_them_tokens():
    """2044 + 4 = 2048 characters pass, 2045 + 4 do not: some 500 tokens, of the 2048 that were meant."""
    for source, name in (("hermes_preference", "prompt"), ("ultrafeedback", "instruction")):
        row = ROWS[source]
        assert published("hermes", source, row | {name: "x" * 2044})["chosen"] == "good"
        with pytest.raises(formats.Unusable, match="too many characters"):
            published("hermes", source, row | {name: "x" * 2045})
        formats.convert(source, row | {name: "x" * 2045}, 0, "file")  # the repaired reader keeps it


def test_hermes_takes_the_second_best_even_where_it_is_no_worse():
    """Scores 5, 8, 8: the pair is 8 against 8. One answer alone is preferred to nothing. N/A counts as 0."""
    make = lambda *answers: published("hermes", "ultrafeedback", {"instruction": "Q", "completions": answers})  # noqa: E731
    tie = make(rated("a", 5), rated("b", 8), rated("c", "8"))
    assert (tie["chosen"], tie["rejected"]) == ("b", "c")
    assert make(rated("a", 5))["rejected"] == ""
    assert make(rated("a", "N/A"), rated("b", 1))["rejected"] == "a"


def test_hermes_cuts_a_reward_answer_at_the_words_it_quotes():
    """The last "Assistant: " need not be the mark: an answer that quotes the words loses what stands before them."""
    row = ROWS["rlhf_reward"] | {"chosen": "Assistant: Begin with Assistant: and go on."}
    assert published("hermes", "rlhf_reward", row)["chosen"] == "and go on."
    assert formats.rlhf_reward(row)["chosen"][0]["content"] == "Begin with Assistant: and go on."


@pytest.mark.parametrize("system", ["dpopenhermes", "neuralhermes"])
def test_an_orca_system_text_is_rendered_only_where_there_is_one(system):
    """Both scripts leave an empty one out, unlike Zephyr's."""
    prompt = published(system, "orca_dpo_pairs", ROWS["orca_dpo_pairs"] | {"system": "S"})["prompt"]
    assert prompt == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


def test_neuralhermes_and_zephyr_get_a_second_stop_token_and_dpopenhermes_does_not():
    """TRL 1.16 adds the stop token where a text does not end in it: a newline behind the first one hides it."""
    ends = {
        ("neuralhermes", "orca_dpo_pairs"): ("<|im_end|>", False),
        ("zephyr", "ultrafeedback_binarized"): ("</s>", False),
        ("dpopenhermes", "orca_dpo_pairs"): ("<|im_end|>", True),
    }  # fmt: skip
    for (system, source), (stop, seen) in ends.items():
        for side in ("chosen", "rejected"):
            text = published(system, source, ROWS[source])[side]
            assert stop in text
            assert text.endswith(stop) == seen


def test_zephyr_keeps_a_system_text_and_invents_an_empty_one():
    """`<|system|>`, newline, stop token: a turn that nobody wrote stands in front of every prompt."""
    words = [said("system", "S"), said("user", "Q"), said("assistant", "good")]
    make = lambda found: published("zephyr", "ultrachat_200k", {"messages": found, "prompt_id": ""})["text"]  # noqa: E731
    assert make(words).startswith("<|system|>\nS</s>\n<|user|>")
    assert make(words[1:]).startswith("<|system|>\n</s>\n<|user|>")


def safety(prompt: str, number: int, safe: tuple) -> dict:
    marks = {"is_response_0_safe": safe[0], "is_response_1_safe": safe[1]}
    return SAFETY | {"prompt": prompt, "response_0": f"zero {number}", "response_1": f"one {number}"} | marks


REPEATED = [
    safety("P", 0, (True, False)), safety("Q", 1, (True, True)), safety("P", 2, (False, True)),
    safety("R", 3, (False, False)), safety("S", 4, (True, False)), safety("P", 5, (False, True)),
]  # fmt: skip


@pytest.fixture
def repeated(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in REPEATED))
    return tmp_path / "p.jsonl"


def test_ambersafe_overwrites_the_target_of_a_repeated_prompt(repeated):
    """P comes in rows 0, 2 and 5: all three pairs stay, the SFT target is row 5's alone. Q and R are filtered out."""
    pairs = formats.read("pku_saferlhf", repeated, variant="ambersafe")
    assert [row["chosen"] for row in pairs.rows] == ["zero 0", "one 2", "zero 4", "one 5"]
    targets = formats.read("pku_saferlhf_safe", repeated, variant="ambersafe")
    assert sorted(targets.rows["text"]) == ["Pone 5", "Szero 4"]
    assert targets.line() == "6 rows in, 2 kept, dropped: 2 overwritten, 2 unlabelled"
    assert [(row["row"], row["reason"], row["detail"]) for row in targets.dropped] == [
        (0, "overwritten", "by row 5"), (1, "unlabelled", "not exactly one answer is safe"),
        (2, "overwritten", "by row 5"), (3, "unlabelled", "not exactly one answer is safe"),
    ]  # fmt: skip
    assert {"overwritten", "unlabelled"} <= {*formats.UNUSABLE}
    repaired = formats.read("pku_saferlhf_safe", repeated).rows
    assert [row["messages"][1]["content"] for row in repaired] == ["zero 0", "one 1", "one 2", "zero 4", "one 5"]


def test_a_target_that_cannot_be_read_is_in_the_account_too(tmp_path):
    """What the script keeps may still be broken: its row stands beside those that the script threw away."""
    rows = [safety("P", 0, (True, False)), safety("P", 1, (True, False)) | {"response_0": "\0"}, {"x": 1},
            safety("Q", 3, (True, False))]  # fmt: skip
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = formats.read("pku_saferlhf_safe", tmp_path / "p.jsonl", variant="ambersafe")
    assert [(row["row"], row["reason"]) for row in found.dropped][:2] == [(0, "overwritten"), (1, "broken characters")]
    assert sorted([*found.rows["row"], *(row["row"] for row in found.dropped)]) == [0, 1, 2, 3]


def test_ambersafes_targets_say_which_rows_they_are(repeated):
    """Counted after the overwriting, "row 0" is another row than the file's first, and nobody finds it again."""
    found = formats.read("pku_saferlhf_safe", repeated, variant="ambersafe").rows
    assert {row["text"]: row["row"] for row in found} == {"Pone 5": 5, "Szero 4": 4}


def test_a_limit_on_ambersafes_targets_is_kept(repeated):
    """Numbers drawn of the file's 6 rows, and looked for among the 2 that stay, are mostly not there."""
    for seed in range(5):
        assert len(formats.load("pku_saferlhf_safe", repeated, variant="ambersafe", limit=2, seed=seed)) == 2
