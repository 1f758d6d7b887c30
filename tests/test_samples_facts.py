"""The questions of 05_evaluate. Run alone: python -m pytest tests/test_samples_facts.py"""

import json
from collections import Counter

import pytest

from hermes_nb import evaluate
from hermes_nb.errors import DataProblem
from hermes_nb.runtime import samples_dir

CATEGORIES = ["writing", "roleplay", "extraction", "reasoning", "math", "coding", "stem", "humanities"]


def test_twenty_facts_with_four_different_choices_each():
    """Two equal choices, or an answer outside them, make a question that nobody can get right."""
    rows = evaluate.fact_rows()
    assert len(rows) == len({r["question"] for r in rows}) == 20
    for row in rows:
        assert set(row) == {"question", "choices", "answer", "topic"}
        assert len(set(row["choices"])) == 4, row["question"]
        assert row["choices"][row["answer"]]


def test_no_place_and_no_length_gives_the_answer_away():
    """A model that always takes the first, or the longest, choice must be near chance, 5 of 20."""
    rows = evaluate.fact_rows()
    assert set(Counter(r["answer"] for r in rows).values()) == {5}
    sizes = [[len(c) for c in r["choices"]] for r in rows]
    alone = sum(s[r["answer"]] == max(s) and s.count(max(s)) == 1 for s, r in zip(sizes, rows, strict=True))
    assert alone <= 8


def test_an_answer_outside_the_choices_is_said(tmp_path):
    """It would count as wrong for every model, in silence."""
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps({"question": "?", "choices": ["a", "b"], "answer": 2, "topic": "t"}))
    with pytest.raises(DataProblem, match="row 0: answer 2"):
        evaluate.fact_rows(str(file))


def test_two_turn_questions_have_mt_benchs_form():
    """Whoever knows that file must be able to read ours; each of its eight categories once."""
    rows = evaluate.two_turn_questions()
    assert [r["category"] for r in rows] == CATEGORIES
    assert [r["question_id"] for r in rows] == list(range(1, 9))
    assert all(list(r) == ["question_id", "category", "turns"] and len(r["turns"]) == 2 for r in rows)


def test_no_question_is_one_of_training():
    """A question that was trained on shows memory, not skill."""
    trained = {json.loads(x)["question"] for x in (samples_dir() / "topics_train.jsonl").read_text().splitlines()}
    asked = {r["question"] for r in evaluate.fact_rows()} | {
        t for r in evaluate.two_turn_questions() for t in r["turns"]
    }
    assert not trained & asked
