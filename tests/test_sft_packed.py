"""A step of talks, however it is cut, is TRL's one batch. Run alone: python -m pytest tests/test_sft_packed.py"""

import copy
import random
import sys

import datasets
import pytest
import torch
from conftest import WORDS
from test_dpo_losses import disturb, grads, plain, same_gradients, step
from test_packing import fused
from test_packing_exact import family
from transformers.integrations.neftune import activate_neftune
from trl import SFTConfig, SFTTrainer

from hermes_nb import models, packing, recipes, sft, training
from hermes_nb.training import Budget

FIELDS = ("log_probs", "entropy", "is_top1")
CUTS = {"whole": (sys.maxsize, 0), "2 rows": (sys.maxsize, 2), "budget": (130, 0), "a row each": (1, 0)}


def conversations(count: int = 8, seed: int = 0, words=(1, 12)):
    """Talks of one to three turns, of very different length unless `words` says otherwise."""
    draw, known = random.Random(seed), WORDS.split()

    def said(role):
        return {"role": role, "content": " ".join(draw.choices(known, k=draw.randint(*words)))}

    turns = [draw.randint(1, 3) if words[0] != words[1] else 1 for _ in range(count)]
    talks = [[said(role) for _ in range(n) for role in ("user", "assistant")] for n in turns]
    return datasets.Dataset.from_list([{"messages": talk} for talk in talks])


def trainer_of(kind, base: str, rows, folder, lora_on=None, **how):
    """A trainer on answers only, in fp32 unless the model says otherwise, with adapters that are not 0."""
    config = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True,
        gradient_checkpointing=False, max_length=256, assistant_only_loss=True, **({"bf16": False} | how),
    )  # fmt: skip
    model = models.add_lora(lora_on or plain(base), recipes.Lora(r=4))
    disturb(model, "default", seed=1)
    with models.keep_fp32(model):
        trainer = kind(
            model=model, args=config, processing_class=models.tokenizer(base, "chatml"), train_dataset=rows
        )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    if kind is sft.RowTrainer:
        assert packing.serve(model, 256, pairs=False, outputs=trainer.outputs())[0] == "gather"
    return trainer


@pytest.fixture(scope="module")
def both(tiny_base, tmp_path_factory):
    """TRL's trainer and ours on the same talks, models and weights."""
    folder = tmp_path_factory.mktemp("both")
    return [trainer_of(kind, tiny_base, conversations(), folder) for kind in (SFTTrainer, sft.RowTrainer)]


def batch(trainer, rows=range(8)):
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])


def holes(seed: int, rows: int = 5, longest: int = 40):
    """A padded batch whose labels have holes: answers between questions, a row without any answer, too."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (rows,), generator=draw).tolist()
    ids, mask = (torch.zeros(rows, max(lengths), dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, n in enumerate(lengths):
        ids[row, :n], mask[row, :n] = torch.randint(3, 97, (n,), generator=draw), 1
        trained = torch.rand(n, generator=draw) < (0.5 if row else 0.0)
        labels[row, :n] = ids[row, :n].masked_fill(~trained, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", ["gather", "dense"])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Gemma", "Phi3"])
def test_scores_of_talks_are_the_padded_ones(name, kind):
    """Labels with holes, ten batches, fp32, each token within 1e-5; a row of questions only does no harm."""
    model = family(name)
    padded, packed = fused(copy.deepcopy(model), FIELDS), fused(copy.deepcopy(model), FIELDS)
    packing.install(packed, kind, pairs=False, outputs=FIELDS)
    for seed in range(10):
        inputs = holes(seed)
        with torch.no_grad():
            theirs, ours = (m(**inputs, fused_lm_head=True, use_cache=False) for m in (padded, packed))
        trained = inputs["labels"][:, 1:] != -100
        assert torch.equal(theirs.label_mask, ours.label_mask)
        assert torch.equal(trained, ours.label_mask.bool())
        for field in FIELDS:
            assert (theirs[field][trained].float() - ours[field][trained].float()).abs().max() <= 1e-5, (field, seed)
            assert not ours[field][~trained].any()
        assert ours.entropy[trained].min() > 0
        assert abs(theirs.loss - ours.loss) < 1e-6


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", CUTS)
def test_a_step_is_trl_s_one_batch_however_it_is_cut(name, given, both):
    """The mean is over the trained tokens of the step; a mean of the parts' means would weigh short answers more."""
    theirs, ours = both
    inputs = batch(theirs)
    items = (inputs["labels"][:, 1:] != -100).sum() if given else None
    wanted, gradients, logged = stepped(theirs, items)
    ours.budget, ours.rows_at_once = Budget(CUTS[name][0], "test"), CUTS[name][1]
    parts = ours._parts(ours.sizes(inputs))
    assert len(parts) == {"whole": 1, "2 rows": 4, "a row each": 8}.get(name, len(parts))
    assert (len(parts) > 1) == (name != "whole")
    got, own, mine = stepped(ours, items)
    assert got == pytest.approx(wanted, rel=1e-5)
    same_gradients(gradients, own)
    assert set(logged) == set(mine) == {"entropy", "mean_token_accuracy", "num_tokens"}
    assert mine == pytest.approx(logged, rel=1e-4, abs=1e-6)
    assert all(mine.values())
    assert all(len(values) == 1 for values in ours._metrics["train"].values())


def stepped(trainer, items):
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    loss = trainer.training_step(trainer.model, batch(trainer), items).item()
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    return loss, grads(trainer.model), logged


def test_a_part_of_questions_only_counts_nothing(both):
    """0 trained tokens must not be 0 / 0."""
    theirs, ours = both
    inputs = batch(theirs)
    inputs["labels"][:2] = -100
    wanted, gradients, _ = step(theirs, inputs)
    ours.budget, ours.rows_at_once = Budget(sys.maxsize, "test"), 2
    got, own, mine = step(ours, inputs)
    assert got == pytest.approx(wanted, rel=1e-5)
    same_gradients(gradients, own)
    assert mine["entropy"] > 0


@pytest.mark.parametrize("name", ["whole", "2 rows", "a row each"])
def test_neftune_s_noise_is_that_of_a_row_however_it_is_cut(name, tiny_base, tmp_path):
    """alpha / sqrt(length * width), https://arxiv.org/abs/2310.05914: the length of a row, not of all rows laid in one.

    Eight rows of like length in one would have noise smaller by sqrt 8, and another one on another machine.
    """
    rows, spread = conversations(words=(9, 9)), []
    for kind in (SFTTrainer, sft.RowTrainer):
        trainer = trainer_of(kind, tiny_base, rows, tmp_path, neftune_noise_alpha=5.0)
        if kind is sft.RowTrainer:
            trainer.budget, trainer.rows_at_once = Budget(CUTS[name][0], "test"), CUTS[name][1]
        embedding, seen = trainer.model.get_input_embeddings(), []
        activate_neftune(trainer.model, 5.0, trainer.accelerator)  # as `train` does

        def look(module, given, out, seen=seen):
            seen.append((out - module.weight[given[0]]).detach().flatten())

        embedding.register_forward_hook(look)
        torch.manual_seed(0)
        step(trainer)
        spread.append(torch.cat(seen).std().item())
    assert spread[0] > 0
    assert 0.8 < spread[1] / spread[0] < 1.25


# the copies that PEFT makes of every layer's input


def saved_bytes(trainer, inputs):
    """Gradients of a step under bf16 autocast, and the bytes that its forward keeps for backward."""
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    trainer.model.zero_grad()
    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, dict(inputs))
    held_bytes = sum(held.values())
    loss.backward()
    return grads(trainer.model), held_bytes, loss.item()


def test_sparing_changes_no_bit_and_keeps_less(tiny_base, tiny_cache, tmp_path):
    """PEFT casts the input of each layer to fp32 before its adapter, autocast casts it back: a copy for nothing."""
    base = models.load_4bit(tiny_base, "bfloat16")
    ours = trainer_of(sft.RowTrainer, tiny_base, conversations(), tmp_path, lora_on=base, bf16=True)
    inputs = batch(ours)
    plain, more, loss = saved_bytes(ours, inputs)
    with training.sparing(ours):
        spared, less, same = saved_bytes(ours, inputs)
    assert loss == same
    assert all(torch.equal(plain[name], spared[name]) for name in plain)
    assert less < more
    again, as_before, _ = saved_bytes(ours, inputs)
    assert as_before == more, "given back"
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_sparing_leaves_fp32_alone(both):
    """Without autocast the casts are needed where base and adapter differ."""
    ours, precision = both[1], torch.get_float32_matmul_precision()
    ours.budget, ours.rows_at_once = Budget(sys.maxsize, "test"), 0
    _, plain, _ = step(ours)
    with training.sparing(ours):
        _, spared, _ = step(ours)
        assert torch.get_float32_matmul_precision() == precision
    assert all(torch.equal(plain[name], spared[name]) for name in plain)
