"""Run alone: python -m pytest tests/test_sft.py"""

from dataclasses import replace

import pytest
import torch

from hermes_nb import history, models, recipes, runs, sft, templates
from hermes_nb.errors import DataProblem, RecipeProblem, RunProblem


def test_a_run_leaves_an_adapter_a_history_and_its_facts(recipe, rows, tmp_path):
    """What the next stage needs, and nothing of this machine in it."""
    run = sft.train(recipe, {"train": rows["sft"], "held_out": rows["sft"]}, tmp_path, watch=lambda *a: None)
    assert run.metrics["steps"] == 3
    assert run.metrics["moved"] > 0.9
    assert len(history.series(history.load(run.path), "loss")) == 3
    engine = run.meta["engine"]
    assert engine["packed"]
    assert engine["attention"] == "gather"
    assert engine["budget"] == {"tokens": engine["budget"]["tokens"], "reason": "a whole step", "halvings": 0}
    assert (run.adapter / "chat_template.jinja").is_file()
    assert list((run.path / "checkpoints").glob("checkpoint-*/manifest.json"))
    runs.verify(run.path)
    for file in run.adapter.glob("*.json"):
        assert str(tmp_path) not in file.read_text()
        assert recipe.model.base not in file.read_text()


def test_a_finished_stage_is_not_run_again(recipe, rows, tmp_path):
    """Run All a second time must take seconds, and still show the curve: one call with all of it."""
    called = []
    first = sft.train(recipe, rows["sft"], tmp_path, watch=lambda *a: called.append(1))
    number = len(called)
    assert sft.train(recipe, rows["sft"], tmp_path, watch=lambda *a: called.append(1)) == first
    assert (number, len(called)) == (3, 4)
    with pytest.raises(RunProblem, match="another recipe"):
        sft.train(recipe, rows["sft"].select(range(8)), tmp_path)


def test_the_same_seed_gives_the_same_adapter(recipe, rows, tmp_path):
    """A run that cannot be repeated proves nothing."""
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = sft.train(replace(recipe, seed=seed), rows["sft"], tmp_path / name, watch=lambda *a: None)
        digests.append(runs.file_digest(run.adapter / "adapter_model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_a_row_that_would_be_cut_is_refused(recipe, rows, tmp_path):
    """TRL cuts it without a word, and the stop token with it."""
    short = replace(recipe, sft=replace(recipe.sft, max_length=24))
    with pytest.raises(DataProblem, match="audit"):
        sft.train(short, rows["sft"], tmp_path)
    assert not (tmp_path / "sft").exists()


def test_a_recipe_without_the_stage_is_said(recipe, rows, tmp_path):
    """neuralhermes has none."""
    with pytest.raises(RecipeProblem, match="no sft stage"):
        sft.train(replace(recipe, sft=None), rows["sft"], tmp_path)


def test_trained_tokens_are_the_answers_and_their_stop_tokens(recipe, rows, tiny_base, tmp_path):
    """The labels that TRL makes equal our own mask: nothing else carries loss."""
    from trl import SFTConfig, SFTTrainer

    tokenizer = models.tokenizer(tiny_base, "chatml")
    config = SFTConfig(output_dir=str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False, report_to="none")
    model = models.add_lora(models.load_4bit(tiny_base), recipes.Lora(r=4))
    trainer = SFTTrainer(
        model=model, args=config, processing_class=tokenizer, train_dataset=rows["sft"].select_columns(["messages"])
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    ids, mask = templates.conversation_ids(tokenizer, rows["sft"][0]["messages"])
    wanted = [i if m else -100 for i, m in zip(ids, mask, strict=True)]
    assert batch["input_ids"][0].tolist() == ids
    assert batch["labels"][0].tolist() == wanted
    assert wanted[-1] == tokenizer.eos_token_id


def test_noise_is_in_training_only(recipe, rows, tmp_path):
    """NEFTune's noise in the held-out loss would make it another number at every call."""
    noisy = replace(recipe, sft=replace(recipe.sft, neftune=5.0, learning_rate=1e-12, score_held_out=True))
    quiet = replace(recipe, sft=replace(recipe.sft, neftune=0.0, learning_rate=1e-12, score_held_out=True))
    both = {"train": rows["sft"], "held_out": rows["sft"]}
    a = sft.train(noisy, both, tmp_path / "a", watch=lambda *x: None).metrics
    b = sft.train(quiet, both, tmp_path / "b", watch=lambda *x: None).metrics
    assert a["train_loss"] != pytest.approx(b["train_loss"], abs=1e-6)
    assert a["held_out_loss"] == pytest.approx(b["held_out_loss"], abs=1e-6)


def test_the_adapter_is_fp32_on_disk(recipe, rows, tmp_path):
    """Rounded on disk, DPO would start from another model than SFT ended with."""
    from safetensors.torch import load_file

    run = sft.train(recipe, rows["sft"], tmp_path, watch=lambda *a: None)
    assert {t.dtype for t in load_file(run.adapter / "adapter_model.safetensors").values()} == {torch.float32}


def test_a_start_is_gone_on_from(recipe, rows, tmp_path):
    """A repair after DPO must change the DPO adapter, not begin a fresh one; another start is another run."""
    from safetensors.torch import load_file

    first = sft.train(recipe, rows["sft"], tmp_path / "first", watch=lambda *a: None)
    still = replace(recipe, sft=replace(recipe.sft, learning_rate=1e-12))
    second = sft.train(still, rows["sft"], tmp_path / "second", watch=lambda *a: None, start=first)
    before, after = (load_file(r.adapter / "adapter_model.safetensors") for r in (first, second))
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert second.meta["parent"] == runs.file_digest(first.adapter / "adapter_model.safetensors")
    with pytest.raises(RunProblem, match="another recipe"):
        sft.train(still, rows["sft"], tmp_path / "second", watch=lambda *a: None)
