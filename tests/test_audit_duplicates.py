"""The same row twice, or in a place it must not be. Run alone: python -m pytest tests/test_audit_duplicates.py"""

import json

import datasets
import pytest

from hermes_nb import audit, models
from hermes_nb.audit import duplicates
from hermes_nb.errors import DataProblem

TALE = (
    "a long tale of rain that falls on bread and on the table in the yard of an old mill by the river where nobody "
    "has lived since the flood of the year in which the bridge was carried away with all its lamps and flags"
)


@pytest.fixture
def tokenizer(tiny_base):
    return models.tokenizer(tiny_base, "chatml")


def pair(question, chosen="yes it is so", rejected="nobody can say", system=None):
    before = [{"role": "system", "content": system}] if system else []
    return {
        "prompt": [*before, {"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def of(*rows):
    return datasets.Dataset.from_list([row | {"source": "here", "row": i} for i, row in enumerate(rows)])


def dropped(found):
    return [(d["row"], d["reason"], d["detail"]) for d in found.dropped]


def test_the_second_of_two_equal_rows_is_dropped(tokenizer):
    """A row that stands twice counts twice; case is a difference, as in code."""
    found = audit.pairs(of(pair("is it rain"), pair("is it bread"), pair("is it rain "), pair("Is it rain")), tokenizer)
    assert dropped(found) == [(2, "duplicate", "of row 0")]


def test_the_same_question_with_other_answers_is_no_duplicate(tokenizer):
    """Our SFT rows ask every question twice, on purpose; so do four rated answers to one prompt."""
    rows = of(pair("is it rain"), pair("is it rain", "no"), pair("is it rain", system="be short"))
    assert dropped(audit.pairs(rows, tokenizer)) == []


def test_a_copy_of_a_row_that_is_dropped_is_no_copy(tokenizer):
    """Both would be gone: the first for its blanks, the second for the first."""
    found = audit.pairs(of(pair("q", "\n\nyes it is"), pair("q", "yes it is")), tokenizer)
    assert dropped(found) == [(0, "prompt not a prefix", "chosen")]


def test_conversations_that_differ_in_their_system_turn_are_two(tokenizer):
    """The same question under "answer in French" and "be a pirate" teaches two things."""
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    rows = [
        {"messages": [{"role": "system", "content": system}, *talk]} for system in ("be short", "be long", "be short")
    ]
    assert dropped(audit.conversations(of(*rows), tokenizer)) == [(2, "duplicate", "of row 0")]


def test_rows_without_a_question_of_their_own_are_not_held_out(tokenizer):
    """Rendered conversations have no question apart: compared by nothing, all would be equal."""
    text = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\na<|im_end|>"
    held = of({"text": text.format("rain")})
    rows = of({"text": text.format("bread")}, {"text": text.format("rain")})
    assert dropped(audit.conversations(rows, tokenizer, held_out=held)) == [(1, "also held out", "")]


def test_the_two_answers_the_other_way_round_are_a_contradiction(tokenizer):
    """Both labels cannot be right, and DPO would push up what it pushed down before."""
    found = audit.pairs(of(pair("q", "a b c", "d e f"), pair("q", "d e f", "a b c")), tokenizer)
    assert dropped(found) == [(1, "contradiction", "of row 0")]


def test_a_question_that_is_held_out_leaves_training(tokenizer):
    """A held-out figure on a question seen in training measures memory."""
    held = of(pair("what is  RAIN", "other words", "still others"))
    found = audit.pairs(of(pair("what is rain"), pair("what is bread")), tokenizer, held_out=held)
    assert dropped(found) == [(0, "also held out", "")]


def test_a_benchmark_question_leaves_training_wherever_it_stands(tokenizer, tmp_path):
    """UltraFeedback holds questions of TruthfulQA; a score on them would be remembered. Eight words in a row count."""
    asked = "why do people carry old bread across the bridge in rain"
    (tmp_path / "bench.jsonl").write_text(
        json.dumps({"question": asked}) + "\n" + json.dumps({"question": "ok"}) + "\n"
    )
    rows = of(
        pair(f"please: {asked.upper()}?"), pair("q", f"they asked {asked} and left"), pair("q2", "why do people go")
    )
    found = audit.pairs(rows, tokenizer, benchmark=tmp_path / "bench.jsonl")
    assert [row for row, reason, _ in dropped(found) if reason == "in the benchmark"] == [0, 1]
    assert "bench.jsonl: why do people carry old bread across the" in dropped(found)[0][2]


@pytest.mark.parametrize(
    "asked", ["What is the capital of France?", "\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u4ec0\u4e48"]
)
def test_a_short_benchmark_question_is_found_inside_a_longer_one(asked, tokenizer, tmp_path):
    """Most questions of TruthfulQA have fewer than eight words; Chinese has no blanks between them."""
    (tmp_path / "b.txt").write_text(asked)
    rows = of(pair(f"Please answer this: {asked} Thanks."), pair("what is the capital of Spain"))
    assert [d[0] for d in dropped(audit.pairs(rows, tokenizer, benchmark=tmp_path / "b.txt"))] == [0]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one two three\n\nfour\n", ["one two three", "four"]),
        ("b.jsonl", '{"question": "one", "input": 3, "text": {"stem": "x"}}\n', ["one"]),
        ("a.jsonl", '{"turns": ["first", "second"]}\n{"prompt": "third"}\n', ["first", "second", "third"]),
    ],
)
def test_benchmark_files_of_several_kinds_are_read(name, content, texts, tmp_path):
    """MT-Bench keeps two turns a row, others one question, some a bare list."""
    (tmp_path / name).write_text(content)
    assert duplicates.benchmark_texts(tmp_path / name) == texts


def test_a_benchmark_file_without_questions_is_refused(tmp_path):
    """Read as empty, it would certify any set as clean."""
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(DataProblem, match="no questions found"):
        duplicates.benchmark_texts(tmp_path / "a.jsonl")


def warned(found):
    return [(w["row"], w["warning"]) for w in found.report["warned_rows"]]


def test_near_duplicates_are_said_and_kept(tokenizer):
    """A changed word hides a copy from an exact test; whether it is one a person must judge."""
    rows = of(pair(TALE), pair("what is bread"), pair(TALE.replace("lamps", "lights")))
    found = audit.pairs(rows, tokenizer)
    assert warned(found) == [(2, "near duplicate")]
    assert found.report["kept"] == 3
    assert "near duplicates" in found.report["seconds"]


def test_questions_near_a_held_out_one_are_said(tokenizer):
    """The answers differ, so the rows as wholes do not look alike: questions are compared by themselves."""
    held = of(pair("how can I sew a button onto a shirt", "with thread", "no"))
    rows = of(pair("how can I sew a button onto my shirt", "take a needle and thread first"), pair("what is bread"))
    assert warned(audit.pairs(rows, tokenizer, held_out=held)) == [(0, "near a held-out row")]


def test_the_near_pass_can_be_left_out(tokenizer):
    """It takes longer than all the rest together."""
    found = audit.pairs(of(pair(TALE), pair(TALE.replace("lamps", "lights"))), tokenizer, near=False)
    assert warned(found) == []
    assert list(found.report["seconds"]) == ["rows"]


def test_estimated_likeness_is_near_the_true_one():
    """64 permutations: the standard deviation of the estimate at a true share of 0.8 is 0.05."""
    a, b = ({f"{k}".encode() for k in range(start, start + 90)} for start in (0, 10))
    from datasketch import MinHash

    first, second = MinHash.bulk([a, b], num_perm=duplicates.PERMUTATIONS, hashfunc=duplicates._hash)
    assert abs(first.jaccard(second) - 80 / 100) < 0.16


def test_planted_near_duplicates_are_found_among_many():
    """20 copies with one word changed, among 300 texts that share their vocabulary: all are found, and nothing else."""
    import random

    draw, vocabulary = random.Random(0), [f"word{i}" for i in range(400)]
    texts = [" ".join(draw.choices(vocabulary, k=80)) for _ in range(300)]
    copies = [text.replace(text.split()[40], "changed", 1) for text in texts[:20]]
    rows = [pair(text) | {"source": "here", "row": i} for i, text in enumerate([*texts, *copies])]
    assert [w["row"] for w in duplicates.near_warnings([rows])] == list(range(300, 320))
