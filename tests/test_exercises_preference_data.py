"""Run alone: python -m pytest tests/test_exercises_preference_data.py"""

import pytest

from hermes_nb.exercises import preference_data


def right(row):
    sides = {"a": row["answer_a"].strip(), "b": row["answer_b"].strip()}
    if row["better"] == "tie" or not all(sides.values()):
        return None
    other = {"a": "b", "b": "a"}[row["better"]]
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "chosen": [{"role": "assistant", "content": sides[row["better"]]}],
        "rejected": [{"role": "assistant", "content": sides[other]}],
    }


def always_a(row):
    return right(row | {"better": "a"})


def ties_to_a(row):
    return right(row | {"better": row["better"].replace("tie", "a")})


def keeps_empty(row):
    pair = right(row | {"answer_a": row["answer_a"].strip() or "x", "answer_b": row["answer_b"].strip() or "x"})
    return pair


def ascii_only(row):
    return right({k: v.encode("ascii", "ignore").decode() for k, v in row.items()})


def no_strip(row):
    pair = right(row)
    if pair:
        first, second = ("answer_a", "answer_b") if row["better"] == "a" else ("answer_b", "answer_a")
        pair["chosen"][0]["content"], pair["rejected"][0]["content"] = row[first], row[second]
    return pair


def raises(row):
    return row["nowhere"]


def test_a_right_reader_is_called_solved(capsys):
    """A learner who is right must hear it."""
    assert preference_data.reader(right)
    assert "solved: all 6 cases hold" in capsys.readouterr().out


@pytest.mark.parametrize("empty", [lambda row: None, lambda row: ...])
def test_an_untouched_exercise_gets_a_hint(empty, capsys):
    """None is right for a tie, so an empty body must not count as one third solved."""
    assert not preference_data.reader(empty)
    assert capsys.readouterr().out.startswith("not solved yet. Hint: a row has")


@pytest.mark.parametrize(
    ("answer", "case"),
    [
        (always_a, "b is better"),
        (ties_to_a, "tie"),
        (keeps_empty, "empty answer"),
        (ascii_only, "Unicode"),
        (no_strip, "leading blanks"),
        (raises, "a is better"),
    ],
)
def test_each_mistake_is_named_by_its_case(answer, case, capsys):
    """A check that lets one of these pass would let it into a training set."""
    assert not preference_data.reader(answer)
    said = capsys.readouterr().out
    assert f"First that does not: {case}:" in said
    assert "solved" not in said
