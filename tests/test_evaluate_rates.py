"""What the numbers of 05_evaluate are made of. Run alone: python -m pytest tests/test_evaluate_rates.py"""

import math
import random

import pytest

from hermes_nb import evaluate
from hermes_nb.errors import DataProblem
from hermes_nb.evaluate import Ballot
from hermes_nb.generate import Answer

CARD = "Short answer: Yes.\nWhy: It rains.\nTry this: Look up."


def test_the_paired_test_on_hand_worked_numbers():
    """Ten questions, 1 only a, 6 only b: two-sided 2 (1 + 7) / 2^7 = 0.125."""
    a = [1, 0, 0, 0, 0, 0, 0, 1, 1, 0]
    b = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert evaluate.paired(a, b) == {"only_a": 1, "only_b": 6, "both": 2, "neither": 1, "p": 0.125}


def test_models_that_never_differ_cannot_be_told_apart():
    """p must be 1, not a division by 0; one difference alone gives 2 x 1/2 = 1."""
    assert evaluate.paired([1, 0], [1, 0])["p"] == 1.0
    assert evaluate.paired([1, 0], [0, 0])["p"] == 1.0
    assert evaluate.paired([], [])["p"] == 1.0


def test_pairs_must_be_pairs():
    """Lists of other lengths are of other questions."""
    with pytest.raises(DataProblem, match="2 flags against 1"):
        evaluate.paired([1, 0], [1])


def test_the_paired_test_is_seldom_wrong_when_models_are_alike():
    """At p < 0.05 it may raise an alarm in at most 5 % of such experiments."""
    dice = random.Random(0)
    alarms = 0
    for _ in range(400):
        flags = [(dice.random() < 0.6, dice.random() < 0.6) for _ in range(60)]
        alarms += evaluate.paired(*zip(*flags, strict=True))["p"] < 0.05
    assert alarms / 400 <= 0.06


def test_the_bootstrap_is_near_the_normal_interval_and_repeats():
    """For 200 plain numbers the two must agree; the same seed must give the same interval."""
    dice = random.Random(1)
    values = [dice.gauss(5, 2) for _ in range(200)]
    drawn, normal = evaluate.bootstrap(values), evaluate.mean(values)
    assert drawn["low"] == pytest.approx(normal["low"], abs=0.06)
    assert drawn["high"] == pytest.approx(normal["high"], abs=0.06)
    assert drawn == evaluate.bootstrap(values)
    assert evaluate.bootstrap([3, 3, 3])["high"] == 3
    with pytest.raises(DataProblem, match="no values"):
        evaluate.bootstrap([])


def test_calibration_on_hand_worked_numbers():
    """|margins| 0, 0, ln 3, ln 3: claims 0.5 and 0.75; right in 0 of 2 (a tie is not right) and in 1 of 2."""
    low, high = evaluate.calibration([math.log(3), 0.0, -math.log(3), 0.0], bins=2)
    assert (low["predicted"], low["accuracy"]["value"], low["n"]) == (0.5, 0.0, 2)
    assert (high["predicted"], high["accuracy"]["value"], high["n"]) == (pytest.approx(0.75), 0.5, 2)


def test_an_honest_model_lies_on_the_diagonal():
    """Margins drawn so that the claim holds must be found to hold."""
    dice = random.Random(2)
    sizes = [dice.uniform(0, 3) for _ in range(4000)]
    margins = [m if dice.random() < 1 / (1 + math.exp(-m)) else -m for m in sizes]
    for group in evaluate.calibration(margins, bins=4):
        assert group["accuracy"]["value"] == pytest.approx(group["predicted"], abs=0.04)


def test_every_margin_is_in_one_group():
    """A pair that falls between two groups would be lost in silence; a huge margin must not overflow."""
    for count in (0, 1, 3, 7, 60):
        groups = evaluate.calibration([float(i) for i in range(count)], bins=5)
        assert sum(g["n"] for g in groups) == count
    assert evaluate.calibration([1e6])[0]["predicted"] == pytest.approx(1.0)


def test_the_length_baseline_counts_by_kind():
    """Each kind apart: else a set balanced as a whole hides that length gives away every kind."""

    def pair(kind, chosen, rejected):
        return {"kind": kind, "chosen": [{"content": "x" * chosen}], "rejected": [{"content": "x" * rejected}]}

    found = evaluate.length_baseline([pair("a", 2, 5), pair("a", 3, 5), pair("b", 5, 1), pair("b", 4, 4)])
    assert (found["longer"]["value"], found["shorter"]["value"]) == (0.25, 0.5)
    assert found["by_kind"]["a"]["shorter"]["value"] == 1.0
    assert found["by_kind"]["b"]["longer"]["value"] == 0.5


def test_votes_needed_on_hand_worked_numbers():
    """0.7 against a coin: ((1.96 x 0.5 + 0.8416 x 0.4583) / 0.2)^2 = 46.6, so 47."""
    assert evaluate.needed_votes(0.7) == 47
    assert evaluate.needed_votes(0.3) == 47
    with pytest.raises(DataProblem, match="equal"):
        evaluate.needed_votes(0.5)


@pytest.mark.parametrize(
    ("text", "stops", "tokens", "points"),
    [
        (CARD, True, 50, 10),
        (CARD, False, 96, 5),
        (CARD + "\nMore: x.", True, 80, 5),
        ("Hm.", True, 2, 5),
        ("", True, 0, 0),
    ],
)
def test_form_points_on_hand_worked_answers(text, stops, tokens, points):
    """Full card 5, its opening 2, stop 3, at most 75 tokens 2; an empty answer must not win points for being short."""
    assert evaluate.form_score(Answer(text, stops, tokens)) == points


def test_figures_are_rows_of_a_table():
    """A mean between 0 and 1 must not be printed in per cent."""
    rows = evaluate.figures({"card": evaluate.rate([1, 0])}, {"margin": evaluate.mean([0.5, 0.7])})
    assert [r["value"] for r in rows] == ["50%", "0.60"]
    assert rows[0]["95 % interval"] == "9% to 91%"


@pytest.fixture
def ballot():
    pairs = [{"question": f"q{i}", "sft": f"s{i}", "dpo": f"d{i}", "rule": "dpo"} for i in range(20)]
    return Ballot(pairs, seed=3)


def test_votes_are_counted_for_the_answer_and_not_for_the_side(ballot):
    """Sides are drawn: a voter who always takes dpo's text must win 20 of 20 for dpo, wherever it stood."""
    sides = set()
    while ballot.now():
        shown = ballot.now()[1]
        side = "left" if shown["left"].startswith("d") else "right"
        sides.add(side)
        ballot.cast(side)
    ballot.cast("left")  # after the end: nothing
    found = ballot.result()
    assert sides == {"left", "right"}
    assert (found["wins"]["value"], found["wins"]["n"], found["agrees"]["value"], found["voted"]) == (1.0, 20, 1.0, 20)
    assert sorted(v["pair"] for v in ballot.state["votes"]) == list(range(20))


def test_ties_are_no_wins(ballot):
    """Counted as losses they would pull the rate down."""
    for _ in range(5):
        ballot.cast("tie")
    found = ballot.result()
    assert (found["wins"]["n"], found["ties"], found["voted"]) == (0, 5, 5)


def test_a_simulated_voter_is_as_good_as_said_and_leaves_no_vote(ballot):
    """It stands in for one who did not vote, and must not be taken for them."""
    found = ballot.result(ballot.simulated(0.75, 2000))
    assert found["wins"]["value"] == pytest.approx(0.75, abs=0.03)
    assert ballot.state["votes"] == []
    assert (found["voted"], found["blind"]) == (2000, 2000)


def test_a_vote_after_a_look_is_not_blind_whatever_is_taken_back(ballot):
    """Look, take back, vote again: the record would call blind what was voted with the result in mind."""
    ballot.cast("left")
    ballot.cast("tie")
    ballot.seen()
    ballot.undo()
    ballot.cast("right")
    ballot.cast("left")
    assert [v["blind"] for v in ballot.state["votes"]] == [True, False, False]
    assert (ballot.result()["voted"], ballot.result()["blind"]) == (3, 1)
    assert ballot.result([{"pair": 0, "left": "sft", "winner": "dpo"}])["blind"] == 0


def test_the_end_is_a_look_only_for_who_goes_on(ballot):
    """A fully blind voter is not to be called seeing; but the key stands at the end, and Undo leads back from there."""
    for _ in range(20):
        ballot.cast("left")
    assert (ballot.state["seen_after"], ballot.result()["blind"]) == ([], 20)
    ballot.undo()
    ballot.cast("right")
    assert (ballot.state["seen_after"], ballot.result()["blind"]) == ([20], 19)


def test_duels_say_what_the_rule_says():
    """A card beats a padded answer; two cards are a tie; each question keeps its own two answers."""
    card, padded = Answer(CARD, True, 20), Answer("Great question! Hm.", True, 20)
    prompts = [[{"role": "user", "content": q}] for q in ("one", "two")]
    found = evaluate.duels(prompts, {"sft": [padded, card, card], "dpo": [card, card, card]})
    assert [(d["question"], d["rule"]) for d in found] == [("one", "dpo"), ("two", "tie")]
    assert (found[0]["sft"], found[0]["dpo"]) == (padded.text, card.text)
    with pytest.raises(DataProblem, match="1 models"):
        evaluate.duels(prompts, {"sft": []})


def test_a_vote_without_texts_is_refused():
    """Half a pair would be shown as an empty answer and voted on."""
    with pytest.raises(DataProblem, match="pair 0: 'dpo' is missing"):
        Ballot([{"question": "q", "sft": "s"}])
    with pytest.raises(DataProblem, match="no pairs"):
        Ballot([])


def test_choices_are_scored_per_character_without_the_stop_token(tiny_base, plain_tokenizer):
    """Scores must belong to their own question; the second turn must see the first answer."""
    from transformers import AutoModelForCausalLM

    from hermes_nb import reference, templates
    from hermes_nb.evaluate import quiz

    tokenizer = templates.fit(plain_tokenizer, "chatml")
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    rows = [{"question": "rain and", "choices": ["bread", "the model answers"], "answer": 0}]
    flat = [quiz._scored(tokenizer, "rain and", c) for c in rows[0]["choices"]]
    assert [tokenizer.decode(ids[start:]) for ids, start in flat] == rows[0]["choices"]
    sums = [logps.sum().item() for logps in reference.token_logps(model, flat)]
    found = evaluate.facts(model, tokenizer, rows)
    assert found["acc"]["value"] == float(sums[0] > sums[1])
    many = evaluate.fact_rows()
    flat = [quiz._scored(tokenizer, r["question"], c) for r in many for c in r["choices"]]
    each = [logps.sum().item() for logps in reference.token_logps(model, flat)]
    best = [max(range(4), key=lambda c, i=i: each[4 * i + c] / len(many[i]["choices"][c])) for i in range(20)]
    assert evaluate.facts(model, tokenizer, many)["right"] == [
        b == r["answer"] for b, r in zip(best, many, strict=True)
    ]
    talks = evaluate.two_turns(model, tokenizer, evaluate.two_turn_questions()[:2], 4)
    assert [len(t["answers"]) for t in talks] == [2, 2]
    assert set(evaluate.by_category(talks)) == {"writing", "roleplay"}
