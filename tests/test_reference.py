"""Run alone: python -m pytest tests/test_reference.py"""

import pytest
import torch

from hermes_nb import models, reference, templates


@pytest.fixture
def model(tiny_base, tiny_cache, cpu_fp32):
    return models.load_4bit(tiny_base)


def test_sums_are_over_the_answers_tokens_and_nothing_else(model, tiny_base, rows):
    """Against a plain loop over one row at a time: padding and batching must not show."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    chosen, rejected = reference.pair_logps(model, tokenizer, rows["dpo"], tokens=96)
    for i, row in enumerate(rows["dpo"]):
        prompt, *answers = templates.pair_ids(tokenizer, row)
        for answer, got in zip(answers, (chosen[i], rejected[i]), strict=True):
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                logps = model(ids).logits[0].log_softmax(-1)
            wanted = sum(logps[t - 1, ids[0, t]].item() for t in range(len(prompt), ids.shape[1]))
            assert got == pytest.approx(wanted, abs=1e-3)


def test_trl_computes_the_same_sums(model, tiny_base, rows, tmp_path):
    """What is evaluated must be what is trained: TRL's own reference pass gives the same numbers."""
    from trl import DPOConfig, DPOTrainer

    from hermes_nb import recipes

    tokenizer = models.tokenizer(tiny_base, "chatml")
    ours = reference.pair_logps(model, tokenizer, rows["dpo"])
    config = DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False
    )
    trainer = DPOTrainer(
        model=models.add_lora(model, recipes.Lora(r=4)), args=config, processing_class=tokenizer,
        train_dataset=rows["dpo"].select_columns(["prompt", "chosen", "rejected"]),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(12)])
    theirs = trainer.compute_ref_log_probs(trainer.model, batch)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other.tolist(), abs=1e-3)


def test_conversation_loss_is_the_models_own(model, tiny_base, rows):
    """Equal to transformers' loss with the labels that SFT trains."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    ids, mask = templates.conversation_ids(tokenizer, rows["sft"][0]["messages"])
    labels = torch.tensor([[i if m else -100 for i, m in zip(ids, mask, strict=True)]])
    with torch.no_grad():
        wanted = model(torch.tensor([ids]), labels=labels).loss.item()
    assert reference.conversation_losses(model, tokenizer, rows["sft"])[0] == pytest.approx(wanted, abs=1e-4)


def test_batches_hold_every_row_once_within_the_budget():
    """A row lost between batches is a score of something else."""
    lengths = [5, 90, 7, 7, 60, 3]
    cut = reference.batches(lengths, 100)
    assert sorted(i for batch in cut for i in batch) == list(range(6))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 100 for b in cut)
