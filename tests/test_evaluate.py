"""Run alone: python -m pytest tests/test_evaluate.py"""

import pytest

from hermes_nb import evaluate, models, reference
from hermes_nb.generate import Answer

CARD = "Short answer: Yes.\nWhy: It rains.\nTry this: Look up."


@pytest.mark.parametrize(
    ("text", "card", "full", "padded"),
    [
        (CARD, True, True, False),
        (CARD + "\nMore: words.", True, False, False),
        ("Short answer: Yes.", True, False, False),
        ("Great question! It depends. I hope this helps!", False, False, True),
        ("How lovely that you are curious! It varies.", False, False, True),
        ("Rain is water. It falls!", False, False, False),
        ("", False, False, False),
        ("short answer: yes", False, False, False),
    ],
)
def test_style_is_told_by_rule(text, card, full, padded):
    """What cannot be counted cannot be claimed; a card that goes on is no full card."""
    found = evaluate.style(Answer(text, True, 9))
    assert (found["card"], found["full_card"], found["padded"]) == (card, full, padded)
    assert (found["stops"], found["tokens"]) == (True, 9)


def test_every_sample_row_has_the_style_it_stands_for():
    """The rule and the data must agree, or the rates mean nothing."""
    import json

    from hermes_nb.runtime import samples_dir

    for split in ("train", "held_out"):
        for line in (samples_dir() / f"conversations_{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            style = row["prompt_id"].split("-")[0]
            for message in row["messages"]:
                if message["role"] == "assistant":
                    found = evaluate.style(Answer(message["content"], True, 1))
                    assert (found["full_card"], found["padded"]) == (style == "card", style == "padded"), row[
                        "prompt_id"
                    ]


def test_wilsons_interval_on_hand_worked_numbers():
    """8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71674, spread 0.22658, so [0.4902, 0.9433]."""
    low, high = evaluate.interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert evaluate.interval(0, 0) == (0.0, 1.0)
    assert evaluate.interval(0, 40)[0] == 0.0
    assert evaluate.interval(40, 40)[1] == 1.0


def test_a_mean_has_an_interval():
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), so 2 -+ 1.1316."""
    found = evaluate.mean([1, 2, 3])
    assert (found["value"], found["high"]) == (2, pytest.approx(3.1316, abs=1e-4))


def test_margins_on_hand_worked_numbers():
    """beta 0.1, policy (-10, -12), reference (-11, -11): rewards +0.1 and -0.1, margin 0.2."""
    assert evaluate.margins(([-10.0], [-12.0]), ([-11.0], [-11.0]), 0.1) == [pytest.approx(0.2)]


def test_before_training_margins_and_reward_accuracy_are_0():
    """By definition: ties do not count, so 0 and not one half. The model's own preference needs no reference."""
    same = ([-10.0, -9.0], [-12.0, -8.0])
    scores = evaluate.preferences(same, same, 0.1, ["a", "b"])
    assert (scores["accuracy"]["value"], scores["margin"]["value"], scores["logp_accuracy"]["value"]) == (0, 0, 0.5)
    assert evaluate.preferences(same, None, 0.1, ["a", "b"]).keys() == {"logp_accuracy"}


def test_kinds_are_scored_apart():
    """A total hides the kind that was not learned."""
    scores = evaluate.preferences(([1.0, -1.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]), 1.0, ["a", "b"])
    assert {k: v["accuracy"]["value"] for k, v in scores["by_kind"].items()} == {"a": 1.0, "b": 0.0}


def test_every_model_of_a_run_is_scored(recipe, rows, tmp_path):
    """base, sft, dpo and merged stand side by side; DPO's reference is the SFT model, so equal adapters give 0."""
    from hermes_nb import merge, sft

    run = sft.train(recipe, rows["sft"], tmp_path, watch=lambda *a: None)
    merged = merge.merge(recipe.model.base, run.adapter, tmp_path / "merged")
    adapters = {"sft": run.adapter, "dpo": run.adapter}
    found = evaluate.compare(recipe, adapters, merged, rows["dpo"], rows["sft"])
    assert list(found) == ["base", "sft", "dpo", "merged"]
    assert found["dpo"]["held_out"]["margin"]["value"] == pytest.approx(0, abs=1e-6)
    assert "margin" not in found["sft"]["held_out"]
    assert found["base"]["held_out"]["sft_loss"]["value"] != found["sft"]["held_out"]["sft_loss"]["value"]
    assert found["base"]["sampled"]["card"]["n"] == 4
    assert "sampled n=4" in evaluate.text(found)


def test_base_means_no_adapter(recipe, rows, tmp_path):
    """Scoring "base" with an adapter on would compare a model with itself."""
    from hermes_nb import sft

    run = sft.train(recipe, rows["sft"], tmp_path, watch=lambda *a: None)
    tokenizer = models.tokenizer(recipe.model.base, "chatml")
    plain = reference.pair_logps(models.load_4bit(recipe.model.base), tokenizer, rows["dpo"])
    model = models.load_adapters(models.load_4bit(recipe.model.base), {"sft": run.adapter, "dpo": run.adapter})
    with models.active(model, "base"):
        assert reference.pair_logps(model, tokenizer, rows["dpo"]) == plain
    with models.active(model, "sft"):
        assert reference.pair_logps(model, tokenizer, rows["dpo"]) != plain
