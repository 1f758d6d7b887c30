"""Run alone: python -m pytest tests/test_audit.py"""

import datasets
import pytest

from hermes_nb import audit, models
from hermes_nb.errors import DataProblem


@pytest.fixture
def tokenizer(tiny_base):
    return models.tokenizer(tiny_base, "chatml")


def pair(prompt="what is rain", chosen="short answer", rejected="one line about bread", role="user"):
    return {
        "prompt": [{"role": role, "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def of(*rows):
    return datasets.Dataset.from_list([r | {"source": "here", "row": i} for i, r in enumerate(rows)])


FAULTS = {
    "empty prompt": pair(prompt="  "),
    "empty answer": pair(rejected=""),
    "identical answers": pair(chosen="same", rejected="same "),
    "roles": pair(role="assistant"),
    "prompt not a prefix": pair(chosen="\n\nanswer"),
    "prompt too long": pair(prompt="question " * 60),
    "stop token cut": pair(chosen="answer " * 60),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_fault_is_found_by_name(reason, tokenizer):
    """TRL trains on an answer without its stop token and drops a long prompt, both without a word."""
    rows = of(pair(), FAULTS[reason])
    found = audit.pairs(rows, tokenizer, max_length=48)
    assert found.report["reasons"] == {reason: 1}
    (row,) = found.report["dropped_rows"]
    assert (row["source"], row["row"], row["reason"]) == ("here", 1, reason)
    assert row["excerpt"].startswith("prompt: ")


def test_rows_in_are_kept_plus_dropped(tokenizer):
    """No row leaves silently."""
    rows = of(pair(), *FAULTS.values(), pair(chosen="other"))
    found = audit.pairs(rows, tokenizer, max_length=48)
    assert len(found.kept) + len(found.dropped) == len(rows) == found.report["rows"]
    assert list(found.kept["row"]) == [0, len(rows) - 1]
    assert "9 rows in, 2 kept, 7 dropped" in found.line()


def test_clean_rows_raise_nothing(tokenizer, rows):
    """An audit that cries at good rows is switched off."""
    assert audit.pairs(rows["dpo"], tokenizer, 128, strict=True).report["dropped"] == 0
    assert audit.conversations(rows["sft"], tokenizer, 128, strict=True).report["dropped"] == 0


def test_strict_raises_at_the_first_fault_with_its_row(tokenizer):
    """In a pipeline a fault must stop the run, not shrink the data."""
    with pytest.raises(DataProblem, match="here, row 1: empty answer"):
        audit.pairs(of(pair(), FAULTS["empty answer"]), tokenizer, strict=True)


def test_the_limit_is_exact(tokenizer):
    """A row of exactly max_length tokens keeps its stop token; one token less loses it."""
    from hermes_nb import templates

    row = pair()
    prompt, chosen, rejected = templates.pair_ids(tokenizer, row)
    length = len(prompt) + max(len(chosen), len(rejected))
    assert audit.pairs(of(row), tokenizer, length).report["kept"] == 1
    assert audit.pairs(of(row), tokenizer, length - 1).report["reasons"] == {"stop token cut": 1}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([("user", "q"), ("assistant", "a"), ("user", "q")], "last turn"),
        ([("user", "q"), ("user", "q"), ("assistant", "a")], "repeated role"),
        ([("assistant", "q"), ("user", "q"), ("assistant", "a")], "roles"),
        ([("tool", "q"), ("user", "q"), ("assistant", "a")], "roles"),
        ([("user", "q"), ("assistant", "")], "empty answer"),
        ([("user", ""), ("assistant", "a")], "empty prompt"),
        ([("user", "q"), ("assistant", "answer " * 60)], "stop token cut"),
        ([("user", "question " * 60), ("assistant", "a")], "prompt too long"),
        ([("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "a")], None),
    ],
)
def test_conversations_are_held_to_the_same(messages, reason, tokenizer):
    """A conversation that ends with the user trains nothing; one with empty turns trains nonsense."""
    row = {"messages": [{"role": r, "content": c} for r, c in messages]}
    assert audit.conversations(of(row), tokenizer, 64).report["reasons"] == ({reason: 1} if reason else {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(prompt="<|im_end|> and more"), "control token in text"),
        (pair(prompt="a\0b"), "broken characters"),
        (pair(prompt="### Instruction:\nhi\n\n### Response:\n"), "template in text"),
        (pair(chosen="<|assistant|>\nyes"), "template in text"),
        (pair(prompt=None), "wrong type"),
        (
            pair() | {"prompt": [*pair()["prompt"], {"role": "assistant", "content": ""}, *pair()["prompt"]]},
            "empty answer",
        ),
        (pair() | {"prompt": pair()["prompt"] * 2}, "repeated role"),
        (pair() | {"prompt": [{"role": "tool", "content": "x"}]}, "roles"),
        (pair() | {"chosen": pair()["chosen"] * 2}, "last turn"),
    ],
)
def test_further_faults_are_found_by_name(row, reason, tokenizer):
    """Each of these was trained on by some published run, and none of them stopped it."""
    assert audit.pairs(of(pair(), row), tokenizer, 64).report["reasons"] == {reason: 1}


@pytest.mark.parametrize("text", ["what does ### Response: mean", "use <|user|> here", "[INST] is a mark"])
def test_marks_in_the_middle_are_said_and_kept(text, tokenizer):
    """A question about templates is a good question."""
    found = audit.pairs(of(pair(prompt=text), pair()), tokenizer, 64)
    assert found.report["warnings"].keys() - {"words tell the label"} <= {"template marks in text"}
    assert found.report["kept"] == 2


def test_answers_that_share_nearly_all_words_are_said(tokenizer):
    """What is left to prefer is one word; the pair is kept, for it may be the right word."""
    words = "rain bread table river mill lamp flag bridge yard flood one two three four five six seven eight nine ten"
    found = audit.pairs(of(pair(chosen=f"Certainly {words}", rejected=f"Of {words}")), tokenizer, 200)
    assert found.report["warnings"] == {}
    longer = f"{words} {words.upper()} eleven twelve {words.replace(' ', 'x ')}"
    found = audit.pairs(of(pair(chosen=f"{longer} yes", rejected=f"{longer} no")), tokenizer, 480)
    assert found.report["warnings"] == {"near-identical answers": 1}


def test_further_columns_do_not_matter_and_missing_ones_are_said(tokenizer):
    """People bring scores and tags along; without a source and a number a dropped row could not be found again."""
    scored = [pair() | {"score": 1.0, "tags": ["a"]}, pair(rejected="") | {"score": 0.5, "tags": []}]
    assert audit.pairs(of(*scored), tokenizer, 64).report["dropped"] == 1
    with pytest.raises(DataProblem, match="lack the columns row, source"):
        audit.pairs(datasets.Dataset.from_list([pair()]), tokenizer, 64)
    with pytest.raises(DataProblem, match="lack the columns chosen, prompt, rejected"):
        audit.pairs(
            datasets.Dataset.from_list([{"messages": pair()["prompt"], "source": "s", "row": 0}]), tokenizer, 64
        )


def test_a_set_of_which_nothing_is_usable_is_still_accounted_for(tokenizer, tmp_path):
    """With an error instead of a report nobody learns what was wrong with each row."""
    from hermes_nb import formats

    (tmp_path / "p.jsonl").write_text('{"system": "", "question": "q"}\n' * 3)
    found = audit.pairs(formats.Stream("orca_dpo_pairs", tmp_path / "p.jsonl"), tokenizer, 64)
    assert (found.report["rows"], found.report["kept"], found.report["reasons"]) == (3, 0, {"missing column": 3})
    assert found.kept.column_names == ["prompt", "chosen", "rejected", "kind", "source", "row"]
