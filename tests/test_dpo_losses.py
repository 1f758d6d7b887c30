"""A step of pairs, however it is cut, is TRL's one batch. Run alone: python -m pytest tests/test_dpo_losses.py"""

import random
import sys
from dataclasses import replace
from typing import get_args

import datasets
import pytest
import torch
from conftest import WORDS
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from hermes_nb import dpo, models, packing, recipes
from hermes_nb.errors import RecipeProblem, ResourceProblem
from hermes_nb.recipes.shape import Loss
from hermes_nb.training import Budget

pytestmark = pytest.mark.usefixtures("frozen")
LOSSES = get_args(Loss)
SORTING = ("aot", "aot_unpaired")
CUTS = {"1x8": (sys.maxsize, 0), "4x2": (sys.maxsize, 2), "budget": (150, 0)}


def plain(base: str):
    """The tiny model in fp32 with a sharper head that leans to the stop token: entropies and hits differ by row."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    head = torch.nn.Linear(64, len(model.lm_head.weight))
    head.weight.data = 10 * model.lm_head.weight.data
    head.bias.data = torch.zeros(len(head.weight)).index_fill(0, torch.tensor([2]), 6.0)  # <|im_end|>
    model.lm_head = head
    return model


def ragged(count: int = 8, seed: int = 0):
    """Pairs whose prompts and answers differ much in length."""
    draw, words = random.Random(seed), WORDS.split()

    def said(role):
        return [{"role": role, "content": " ".join(draw.choices(words, k=draw.randint(1, 14)))}]

    pairs = [{"prompt": said("user"), "chosen": said("assistant"), "rejected": said("assistant")} for _ in range(count)]
    return datasets.Dataset.from_list(pairs)


def disturb(model, adapter: str, seed: int, spread: float = 0.1):
    """Weights of an adapter drawn anew, B too, the same for the same seed."""
    torch.manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if f".{adapter}." in name:
            parameter.data = torch.randn_like(parameter) * spread


def drawn_adapter(base: str, folder):
    """Folder of an adapter with random weights, B too, as training might have left it."""
    model = models.add_lora(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), recipes.Lora(r=4))
    disturb(model, "default", seed=3)
    return models.save_adapter(model, folder / "adapter", base)


def trainer_of(kind, base: str, pairs, folder, packed: bool = True, **how):
    """A trainer in fp32 past its first step, whose reference is an adapter and whose policy is another."""
    config = DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=8, bf16=False, use_cpu=True, report_to="none", beta=0.5,
        gradient_checkpointing=False, disable_tqdm=True, max_length=128, **how,
    )  # fmt: skip
    model = models.add_lora(plain(base), recipes.Lora(r=4))
    disturb(model, "default", seed=1)
    with models.keep_fp32(model):
        trainer = kind(
            model=model, args=config, processing_class=models.tokenizer(base, "chatml"), train_dataset=pairs
        )  # fmt: skip
    disturb(model, "default", seed=2)
    trainer.state.global_step, trainer.current_gradient_accumulation_steps = 1, 1
    if kind is dpo.PairTrainer and packed:
        assert packing.serve(model, 128, outputs=trainer.outputs())[0] == "gather"
    return trainer


@pytest.fixture(scope="module")
def both(tiny_base, tmp_path_factory):
    """TRL's trainer and ours on the same pairs, models and weights."""
    pairs, folder = ragged(), tmp_path_factory.mktemp("both")
    return [trainer_of(kind, tiny_base, pairs, folder) for kind in (DPOTrainer, dpo.PairTrainer)]


def losses(trainer, names, weights=None, smoothing: float = 0.0):
    trainer.loss_types, trainer.loss_weights = list(names), list(weights or [1.0] * len(names))
    trainer.args.loss_type, trainer.label_smoothing = list(names), smoothing


def batch(trainer, rows=range(8)):
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])


def step(trainer, inputs=None):
    """Loss, gradients and logged metrics of one step, without an update."""
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    loss = trainer.training_step(trainer.model, dict(inputs or batch(trainer))).item()
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    return loss, grads(trainer.model), logged


def grads(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def cut(trainer, name: str):
    tokens, trainer.rows_at_once = CUTS[name]
    trainer.budget = Budget(tokens, "test")


def same_gradients(theirs, ours, tolerance=1e-4):
    assert theirs.keys() == ours.keys()
    assert all(t.norm() > 0 for t in theirs.values())
    for name, t in theirs.items():
        assert (t - ours[name]).norm() <= tolerance * t.norm(), name


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_trl_s_one_batch_however_it_is_cut(loss, both):
    """A loss that is no mean over pairs would train another model on a smaller GPU."""
    for trainer in both:
        losses(trainer, [loss], smoothing=0.1 if loss in ("exo_pair", "robust", *SORTING) else 0.0)
    wanted, gradients, _ = step(both[0])
    for name in CUTS:
        cut(both[1], name)
        got, own, _ = step(both[1])
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
        same_gradients(gradients, own)


def test_the_cuts_above_are_cuts(both):
    """Parts that were never made would prove nothing; the budgeted ones are uneven."""
    sizes = both[1].sizes(batch(both[1]))
    assert sizes == [size for size, _ in both[1].lengths()]
    counts = {}
    losses(both[1], ["sigmoid"])
    for name in CUTS:
        cut(both[1], name)
        counts[name] = [len(part) for part in both[1]._parts(sizes)]
    assert counts["1x8"] == [8]
    assert counts["4x2"] == [2, 2, 2, 2]
    assert len(counts["budget"]) > 2
    assert len(set(counts["budget"])) > 1


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_sft_counts_by_the_chosen_tokens_of_the_step(weights, both):
    """`[sigmoid, sft]`, the stop-token repair, is a token mean: TRL's own 4x2 is off by percents of the gradient."""
    for trainer in both:
        losses(trainer, ["sigmoid", "sft"], weights)
    wanted, gradients, _ = step(both[0])
    for name in CUTS:
        cut(both[1], name)
        got, own, _ = step(both[1])
        assert got == pytest.approx(wanted, rel=1e-5)
        same_gradients(gradients, own)
        assert both[1].loss_weights == list(weights), "the weights of the next step must be the recipe's"


def test_trl_s_own_accumulation_is_another_step(both):
    """If TRL weighs its micro-batches by tokens one day, our parts can go."""
    theirs = both[0]
    losses(theirs, ["sigmoid", "sft"])
    _, whole, _ = step(theirs)
    theirs.model.zero_grad()
    theirs.current_gradient_accumulation_steps = 4
    for k in range(4):
        theirs.training_step(theirs.model, batch(theirs, range(2 * k, 2 * k + 2)))
    theirs.current_gradient_accumulation_steps = 1
    off = [(whole[n] - g).norm() / whole[n].norm() for n, g in grads(theirs.model).items()]
    assert max(off) > 0.02


@pytest.mark.parametrize("loss", SORTING)
@pytest.mark.parametrize("tokens", [1, 150])
def test_a_loss_that_sorts_is_never_cut(loss, tokens, both):
    """Sorted over a part, other pairs would be set against one another."""
    losses(both[1], [loss])
    both[1].budget, both[1].rows_at_once = Budget(tokens, "test"), 1
    assert both[1]._parts(both[1].sizes(batch(both[1]))) == [list(range(8))]


@pytest.mark.parametrize("loss", SORTING)
def test_a_loss_that_sorts_and_does_not_fit_is_said(loss, both, monkeypatch):
    """Halving a budget that cuts nothing would go on for ever."""
    losses(both[1], [loss])

    def full(*args, **more):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(both[1], "compute_loss", full)
    with pytest.raises(ResourceProblem, match=f"the loss {loss} sorts over all its pairs"):
        step(both[1])


METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
    "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy", "num_tokens",
)  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_logged_metrics_are_those_of_the_whole_step(name, both):
    """TRL averages its micro-batches unweighted: a margin of 0.01106 in the log, 0.01088 in truth."""
    for trainer in both:
        losses(trainer, ["sigmoid"])
    cut(both[1], name)
    (_, _, theirs), (_, _, ours) = (step(trainer) for trainer in both)
    assert set(theirs) == set(ours) == set(METRICS)
    for metric in METRICS:
        assert ours[metric] == pytest.approx(theirs[metric], rel=1e-4, abs=1e-6), metric
        assert ours[metric], metric
    assert all(len(values) == 1 for values in both[1]._metrics["train"].values())


def test_every_metric_is_weighed_by_what_trl_averages_it_over(both):
    """A metric that this table does not know would be averaged by pairs, rightly or not; new ones must be looked at."""
    losses(both[1], ["sigmoid"])
    cut(both[1], "4x2")
    step(both[1])
    assert set(both[1]._metrics["train"]) == set(METRICS)


def test_padded_parts_are_the_same_step(both, tiny_base, tmp_path):
    """Where packing does not serve, steps are cut by rows: the same step, too."""
    plain = trainer_of(dpo.PairTrainer, tiny_base, ragged(), tmp_path, packed=False)
    for trainer in (both[0], plain):
        losses(trainer, ["sigmoid", "sft"])
    wanted, gradients, logged = step(both[0])
    plain.rows_at_once = 3
    got, own, mine = step(plain)
    assert got == pytest.approx(wanted, rel=1e-5)
    same_gradients(gradients, own)
    assert mine == pytest.approx(logged, rel=1e-4, abs=1e-6)


def test_stored_references_are_cut_with_their_pairs(both, tiny_base, tmp_path):
    """A part that takes its neighbour's reference would still have a finite loss."""
    ours = trainer_of(dpo.PairTrainer, tiny_base, ragged(), tmp_path)
    inputs = batch(ours)
    chosen, rejected = ours.compute_ref_log_probs(ours.model, inputs)
    inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    losses(both[0], ["sigmoid"])
    wanted, gradients, _ = step(both[0])
    ours.precompute_ref_logps = True
    for name in CUTS:
        cut(ours, name)
        got, own, _ = step(ours, inputs)
        assert got == pytest.approx(wanted, rel=1e-5)
        same_gradients(gradients, own)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_that_a_recipe_may_name_trains(loss, recipe, rows, cpu_fp32, tmp_path):
    """A recipe that is accepted and then refused by TRL with a ValueError wastes a model load."""
    try:
        recipes.load("course", "tiny", overrides={"dpo": {"loss": [loss]}})
    except RecipeProblem:
        return  # said in words, and at once
    short = {"max_steps": 1, "loss": (loss,), "checkpoints": 0}
    run = dpo.train(replace(recipe, dpo=replace(recipe.dpo, **short)), rows["dpo"], tmp_path, watch=lambda *a: None)
    assert run.metrics["steps"] == 1


def test_a_weighted_sigmoid_starts_at_its_own_weight_times_ln_2(recipe, rows, cpu_fp32, tmp_path):
    """`dpo.loss_weights: [0.5]` is a lawful recipe; the proof must not call its reference wrong."""
    half = {"max_steps": 1, "loss": ("sigmoid",), "loss_weights": (0.5,), "checkpoints": 0}
    run = dpo.train(replace(recipe, dpo=replace(recipe.dpo, **half)), rows["dpo"], tmp_path, watch=lambda *a: None)
    assert run.metrics["train_loss"] == pytest.approx(0.3466, abs=1e-3)
