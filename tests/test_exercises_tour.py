"""Run alone: python -m pytest tests/test_exercises_tour.py"""

import json

import pytest

from hermes_nb.errors import FileProblem
from hermes_nb.exercises import tour

CARD = "Short answer: Rain is water.\nWhy: Clouds are heavy.\nTry this: Look up."
PADDED = "Great question! It depends on many things. Hope that helps!"
PLAIN = "Rain is a kind of rain that is rain"
MODELS = ["base", "sft", "dpo", "sft", "base", "dpo", "dpo", "sft"]
TEXTS = [PLAIN, PADDED, CARD, CARD, PLAIN, CARD, CARD, PADDED]
ANSWERS = [{"model": m, "question": "What is rain?", "answer": t} for m, t in zip(MODELS, TEXTS, strict=True)]


def wrong(*places):
    """The right guesses, but for those at `places` (from 1)."""
    return [{"base": "sft", "sft": "dpo", "dpo": "sft"}[m] if i in places else m for i, m in enumerate(MODELS, 1)]


def test_all_right_is_solved(capsys):
    """By hand: 8 of 8 by guessing is 1 / 3^8 = 0.015 %."""
    assert tour.blind(MODELS, ANSWERS) is True
    out = capsys.readouterr().out
    assert "solved: 8 of 8 right" in out
    assert "0.0% of tries" in out


@pytest.mark.parametrize(
    ("right", "n", "share"), [(2, 2, 1 / 9), (1, 2, 5 / 9), (0, 8, 1), (6, 8, 129 / 6561), (5, 8, 577 / 6561)]
)
def test_luck_is_counted_exactly(right, n, share):
    """By hand: 6 or more of 8 is 28 x 4 + 8 x 2 + 1 = 129 of 6561 ways; 5 or more 56 x 8 = 448 ways on top."""
    assert tour.by_luck(right, n) == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize(("places", "done"), [((1,), True), ((1, 2), True), ((1, 2, 3), False), (range(1, 9), False)])
def test_a_score_that_luck_may_reach_is_not_solved(places, done, capsys):
    """Three or four right of eight are what a coin gets: calling that solved teaches nothing."""
    assert tour.blind(wrong(*places), ANSWERS) is done
    out = capsys.readouterr().out
    assert f"{8 - len(places)} of 8 right" in out
    assert ("solved:" in out) is done
    assert ("Not solved yet" in out) is not done


@pytest.mark.parametrize(
    ("place", "words"), [(1, "Nobody has shown the base"), (2, "stock opening"), (3, "better guess"), (4, "fair miss")]
)
def test_one_wrong_guess_is_explained(place, words, capsys):
    """A score alone does not say what to look at."""
    tour.blind(wrong(place), ANSWERS)
    out = capsys.readouterr().out
    assert f"Answer {place} is not" in out
    assert words in out


def test_every_model_and_form_has_its_tell_tale():
    """A text nobody foresaw would end in a KeyError."""
    assert set(tour.TELL_TALES) == {(m, f) for m in tour.MODELS for f in ("card", "padded", "plain")}
    assert [tour._form(t) for t in (CARD, PADDED, PLAIN, "")] == ["card", "padded", "plain", "plain"]


@pytest.mark.parametrize("empty", [None, ..., [], [None] * 8, ["..."] * 8, [...] * 8, ["base"] * 7 + [None]])
def test_open_guesses_get_a_hint(empty, capsys):
    """Run All goes over unsolved exercises."""
    assert tour.blind(empty, ANSWERS) is False
    out = capsys.readouterr().out
    assert "not solved yet. Hint" in out
    assert "of 8 right" not in out


@pytest.mark.parametrize(
    ("guesses", "words"),
    [
        (["base"] * 7, "8 answers and 7 guesses"), (["base"] * 7 + ["gpt"], "Guess 8 is 'gpt'"),
        ([1] * 8, "Guess 1 is 1"), ("base", "Give a list"), ({"base": 1}, "Give a list"), (7, "Give a list"),
        ([["base"]] * 8, "Guess 1"),
    ],
)  # fmt: skip
def test_guesses_of_the_wrong_form_are_taught(guesses, words, capsys):
    """A typing slip must not raise, and must not count as a wrong model."""
    assert tour.blind(guesses, ANSWERS) is False
    assert words in capsys.readouterr().out


def test_capitals_and_spaces_are_no_mistake():
    """'DPO' is how the lesson writes it."""
    assert tour.blind([f" {m.upper()} " for m in MODELS], ANSWERS) is True


def test_the_table_does_not_give_the_model_away():
    """A blind test with the answers beside it is none."""
    rows = tour.answers_to_judge(ANSWERS)
    assert [r["number"] for r in rows] == list(range(1, 9))
    assert all(set(r) == {"number", "question", "answer"} for r in rows)
    assert [r["answer"] for r in rows] == TEXTS


def test_the_shipped_answers_are_read(tmp_path, monkeypatch, capsys):
    """Without a second argument the check must take the file that is shipped, and say so where it is missing."""
    monkeypatch.setattr(tour, "samples_dir", lambda: tmp_path)
    assert tour.blind(MODELS) is False
    assert "headline.json" in capsys.readouterr().out
    with pytest.raises(FileProblem, match=r"headline\.json"):
        tour.answers_to_judge()
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "headline.json"
    file.write_text("{}")
    assert tour.blind(MODELS) is False
    file.write_text(json.dumps({"blind": ANSWERS}))
    assert tour.blind(MODELS) is True
    assert len(tour.answers_to_judge()) == 8
