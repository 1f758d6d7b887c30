"""Run alone: python -m pytest tests/test_exercises_dpo.py"""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest

from hermes_nb.exercises import dpo


def log_sigmoid(x):
    return math.log(1 / (1 + math.exp(-x)))


def right_margin(logp_chosen, logp_rejected, ref_chosen, ref_rejected, beta):
    chosen, rejected = beta * (logp_chosen - ref_chosen), beta * (logp_rejected - ref_rejected)
    return chosen, rejected, chosen - rejected


def right_smoothed(margin, smoothing):
    return -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)


def right_ipo(h, beta):
    return (h - 1 / (2 * beta)) ** 2


RIGHT = {dpo.reward_margin: right_margin, dpo.smoothed: right_smoothed, dpo.ipo: right_ipo}
CASES = {dpo.reward_margin: dpo.MARGINS, dpo.smoothed: dpo.SMOOTHED, dpo.ipo: dpo.IPO}
MISTAKES = {
    dpo.reward_margin: dpo.MARGIN_MISTAKES, dpo.smoothed: dpo.SMOOTHED_MISTAKES, dpo.ipo: dpo.IPO_MISTAKES,
}  # fmt: skip
NAMES = {check: check.__name__ for check in RIGHT}


@pytest.fixture(params=RIGHT, ids=NAMES.values())
def check(request):
    return request.param


def test_a_right_answer_is_solved(check, capsys):
    """A check that the true formula fails teaches a wrong one."""
    assert check(RIGHT[check]) is True
    assert "solved" in capsys.readouterr().out


def test_right_in_tensors_is_right_as_well(capsys):
    """A learner who writes it with torch, as the lesson does, must not be told that 25.0 is not 25.0."""
    import torch

    assert dpo.ipo(lambda h, b: (torch.tensor(h, dtype=torch.float64) - 1 / (2 * b)) ** 2)
    assert dpo.reward_margin(
        lambda c, r, rc, rr, b: [torch.tensor(x, dtype=torch.float64) for x in right_margin(c, r, rc, rr, b)]
    )


@pytest.mark.parametrize("empty", [lambda *a: None, lambda *a: ...], ids=["None", "dots"])
def test_an_untouched_cell_gets_a_hint(check, empty, capsys):
    """Run All goes over unsolved exercises."""
    assert check(empty) is False
    out = capsys.readouterr().out
    assert "not solved yet" in out
    assert "Hint" in out
    assert "looks as if" not in out


@pytest.mark.parametrize("bad", [lambda: 1, lambda *a: 1 / 0, lambda *a: "x", lambda *a: [], None, 3])
def test_nothing_is_ever_raised(check, bad, capsys):
    """An exception would stop Run All in the middle of the lesson."""
    assert check(bad) is False
    assert "0 of 3 cases hold" in capsys.readouterr().out


def test_each_known_mistake_is_named(check, capsys):
    """'Wrong' teaches less than 'the sign is turned'; and no two mistakes may look the same on the cases."""
    for what, formula in MISTAKES[check].items():
        assert check(formula) is False, what
        assert f"It looks as if {what}." in capsys.readouterr().out


def test_the_reasons_hold_the_numbers_of_their_cases():
    """A hand-worked line that disagrees with its case misleads whoever reads it."""
    assert f"{dpo.SMOOTHED[1].expected:.4f}" == "0.3975" in dpo.SMOOTHED[1].why
    assert f"{dpo.SMOOTHED[2].expected:.4f}" == "0.3251" in dpo.SMOOTHED[2].why
    assert pytest.approx(dpo.IPO[1].given[0]) == 3 / 10 - -14 / 20
    assert pytest.approx(dpo.IPO[2].given[0]) == 6 / 10 - -7 / 5


def trl_loss(loss_type, beta, chosen, rejected, smoothing=0.0):
    """TRL's own loss and rewards of one pair; each side is (log-ratio to the reference, tokens).

    `DPOTrainer._compute_loss` is run with a stand-in for the trainer and for the model's output. By hand: the policy's
    token log-probs are the log-ratio spread evenly, the reference's sum is 0.
    """
    import torch
    from trl import DPOTrainer

    width = 1 + max(chosen[1], rejected[1])
    mask, logps = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width - 1, dtype=torch.float64)
    for row, (ratio, tokens) in enumerate((chosen, rejected)):
        mask[row, 1 : 1 + tokens] = 1
        logps[row, :tokens] = ratio / tokens
    zeros = torch.zeros(2, width - 1)
    output = SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    same = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=same, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=beta, label_smoothing=smoothing, use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    nothing = torch.zeros(1, dtype=torch.float64)
    inputs = {
        "input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": nothing, "ref_rejected_logps": nothing,
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, lambda **inputs: output, inputs, False)
    logged = trainer._metrics["train"]
    return loss.item(), tuple(logged[f"rewards/{n}"][0] for n in ("chosen", "rejected", "margins"))


@pytest.mark.parametrize(
    ("case", "chosen", "rejected"),
    [(0, (0.0, 10), (0.0, 20)), (1, (3.0, 10), (-14.0, 20)), (2, (6.0, 10), (-7.0, 5))],
)
def test_ipo_is_trls(case, chosen, rejected):
    """TRL takes the mean over an answer's tokens; the paper's sum would be another exercise."""
    _, beta = dpo.IPO[case].given
    assert trl_loss("ipo", beta, chosen, rejected)[0] == pytest.approx(dpo.IPO[case].expected, abs=1e-9)


@pytest.mark.parametrize("case", dpo.SMOOTHED, ids=lambda c: c.name)
def test_the_smoothed_loss_is_trls(case):
    """TRL 1.16 has it under `aot`, which for one pair is just this; its `sigmoid` takes no smoothing."""
    margin, smoothing = case.given
    found, _ = trl_loss("aot", 0.1, (margin / 0.1, 4), (0.0, 4), smoothing)
    assert found == pytest.approx(case.expected, abs=1e-9)
    plain, _ = trl_loss("sigmoid", 0.1, (margin / 0.1, 4), (0.0, 4), smoothing)
    assert plain == pytest.approx(right_smoothed(margin, 0.0), abs=1e-9)


@pytest.mark.parametrize("case", dpo.MARGINS, ids=lambda c: c.name)
def test_rewards_and_margin_are_trls(case):
    """The curves of the lesson are TRL's; the exercise must be about the same numbers."""
    chosen, rejected, ref_chosen, ref_rejected, beta = case.given
    _, found = trl_loss("sigmoid", beta, (chosen - ref_chosen, 4), (rejected - ref_rejected, 8))
    assert found == pytest.approx(case.expected, abs=1e-9)
