"""Run alone: python -m pytest tests/test_dpo.py"""

import math
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from hermes_nb import dpo, history, models, sft
from hermes_nb.errors import DataProblem, FileProblem, RecipeProblem, RunProblem, TrainingProblem

SILENT = lambda *a: None  # noqa: E731


@pytest.fixture
def start(recipe, rows, tmp_path):
    hot = replace(recipe, sft=replace(recipe.sft, learning_rate=0.05))
    return sft.train(hot, rows["sft"], tmp_path / "start", watch=SILENT)


@pytest.mark.parametrize("fresh", [True, False])
def test_step_0_is_proved_for_both_kinds_of_reference(fresh, recipe, rows, start, tmp_path):
    """From an SFT adapter the reference is its copy; from nothing it is the base with the adapter off."""
    run = dpo.train(recipe, rows["dpo"], tmp_path, start=None if fresh else start, watch=SILENT)
    table = history.load(run.path)
    assert history.series(table, "loss")[1] == pytest.approx(math.log(2), abs=1e-4)  # the trainer logs four digits
    assert history.series(table, "margin")[1] == 0.0
    assert history.series(table, "accuracy")[1] == 0.0  # strict >, so 0 and not one half
    assert run.metrics["moved"] > 0.99 if not fresh else run.metrics["moved"] > 0.4
    assert (run.meta["parent"] is None) == fresh
    assert {p.name for p in run.adapter.iterdir()} >= {"adapter_model.safetensors", "tokenizer.json"}
    assert not (run.adapter / "ref").exists()


@pytest.mark.parametrize(
    ("loss", "rewards", "refused"),
    [
        (math.log(2), {"chosen": 0.0, "rejected": 0.0, "margins": 0.0}, False),
        (math.log(2) + 2e-9, {"chosen": 0.0, "rejected": 0.0, "margins": 0.0}, False),
        (math.log(2) + 0.011, {"chosen": 0.0, "rejected": 0.0, "margins": -0.020}, True),
        (math.log(2), {"chosen": 0.3, "rejected": 0.3, "margins": 0.0}, True),
        (math.nan, {"chosen": math.nan, "rejected": 0.0, "margins": math.nan}, True),
    ],
)
def test_the_proof_tells_right_from_wrong(loss, rewards, refused):
    """Two equal errors cancel in the margin, so each reward is looked at; NaN is not small."""
    if refused:
        with pytest.raises(TrainingProblem, match="not the same model"):
            dpo.prove_start(loss, rewards, 1.0)
    else:
        dpo.prove_start(loss, rewards, 1.0)


def test_training_refuses_to_start_from_a_rounded_policy(recipe, rows, start, tmp_path, monkeypatch):
    """Take the fp32 guard out, and the run must stop, with nothing written.

    Under bf16 autocast step 0 alone would not show it: both models are rounded there; only the updates would be lost.
    """
    from contextlib import nullcontext

    monkeypatch.setattr(models, "keep_fp32", lambda model: nullcontext())
    with pytest.raises(TrainingProblem, match="not fp32"):
        dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT)
    assert not (tmp_path / "dpo").exists()


def test_training_refuses_to_start_against_another_reference(recipe, rows, start, tmp_path, monkeypatch):
    """The proof itself, in the trainer: a reference that is not the start must stop the run before the first update."""
    from hermes_nb import training

    def disturb(trainer, *args):
        for name, parameter in trainer.model.named_parameters():
            if ".ref." in name:
                parameter.data += 0.1

    monkeypatch.setattr(training, "nothing_lost", disturb)
    with pytest.raises(TrainingProblem, match="not the same model"):
        dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT)
    assert not (tmp_path / "dpo").exists()


def test_other_losses_are_proved_by_their_rewards(recipe, rows, start, tmp_path):
    """The stop-token repair `[sigmoid, sft]` does not begin at ln 2."""
    mixed = replace(recipe, dpo=replace(recipe.dpo, loss=("sigmoid", "sft"), loss_weights=(1.0, 0.5)))
    run = dpo.train(mixed, rows["dpo"], tmp_path, start=start, watch=SILENT)
    assert history.series(history.load(run.path), "loss")[1] > math.log(2)


def test_another_start_is_another_run(recipe, rows, start, tmp_path):
    """An adapter trained from another SFT model must not be taken for this one's."""
    dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT)
    assert dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT).path == tmp_path / "dpo"
    file = start.adapter / "adapter_model.safetensors"
    save_file({k: v * 2 for k, v in load_file(file).items()}, file)
    with pytest.raises(RunProblem, match="another recipe"):
        dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT)


def test_a_missing_start_is_said(recipe, rows, tmp_path):
    """Before anything is loaded."""
    with pytest.raises(FileProblem, match="run that stage first"):
        dpo.train(recipe, rows["dpo"], tmp_path, start=tmp_path / "nowhere")


def test_a_pair_that_would_be_cut_or_dropped_is_refused(recipe, rows, tmp_path):
    """TRL cuts the longer answer's stop token, and drops long prompts, without a word."""
    for length in (24, 8):
        short = replace(recipe, dpo=replace(recipe.dpo, max_length=length))
        with pytest.raises(DataProblem, match="audit"):
            dpo.train(short, rows["dpo"], tmp_path, watch=SILENT)


def test_a_recipe_without_the_stage_is_said(recipe, rows, tmp_path):
    """An SFT-only recipe."""
    with pytest.raises(RecipeProblem, match="no dpo stage"):
        dpo.train(replace(recipe, dpo=None), rows["dpo"], tmp_path)


def test_the_trainers_loss_is_the_papers(recipe, rows, start, tmp_path):
    """-log sigmoid(margin), Eq. 7: the mean loss that TRL logs lies at or above that of the mean margin (Jensen)."""
    run = dpo.train(recipe, rows["dpo"], tmp_path, start=start, watch=SILENT)
    table = history.load(run.path)
    for step in (1, 2, 3):
        margin, loss = history.series(table, "margin")[step], history.series(table, "loss")[step]
        chosen, rejected = (history.series(table, f"reward_{side}")[step] for side in ("chosen", "rejected"))
        assert margin == pytest.approx(chosen - rejected, abs=1e-5)
        assert loss >= math.log1p(math.exp(-margin)) - 1e-3
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), abs=0.05)


def test_rows_are_cut_only_when_the_recipe_says_so(recipe, rows, start, tmp_path):
    """The stop failure of 03_dpo needs rows that are cut; nothing else may have them."""
    short = {"max_length": 36}
    with pytest.raises(DataProblem, match="stop token"):
        dpo.train(replace(recipe, dpo=replace(recipe.dpo, **short)), rows["dpo"], tmp_path, start, SILENT)
    cut = replace(recipe, dpo=replace(recipe.dpo, **short, too_long="cut"))
    assert dpo.train(cut, rows["dpo"], tmp_path, start, SILENT).metrics["steps"] == 3


def test_the_lessons_six_lines_are_the_trainers_loss(recipe, rows, tiny_cache, cpu_fp32, tmp_path):
    """What the notebook shows must be what TRL computes, on rows whose margins are not 0."""
    import nbformat
    import torch
    from trl import DPOConfig, DPOTrainer

    from hermes_nb import course, recipes, reference

    notebook = nbformat.read(course.FOLDER / "03_dpo.ipynb", as_version=4)
    lesson = {}
    exec(next(c.source for c in notebook.cells if "miniature" in c.metadata.get("tags", [])), lesson)
    tokenizer = models.tokenizer(recipe.model.base, "chatml")
    trainer = DPOTrainer(
        model=models.add_lora(models.load_4bit(recipe.model.base), recipes.Lora(r=4)), processing_class=tokenizer,
        args=DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, beta=0.1, gradient_checkpointing=False),
        train_dataset=rows["dpo"].select_columns(["prompt", "chosen", "rejected"]),
    )  # fmt: skip
    before = reference.pair_logps(trainer.model, tokenizer, rows["dpo"])
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B.default" in name:
            parameter.data.normal_(std=0.2)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(12)]))
    after = reference.pair_logps(trainer.model, tokenizer, rows["dpo"])
    loss, margin = lesson["dpo_loss"](*(torch.tensor(v) for v in (*after, *before)), 0.1)
    assert margin.abs().max() > 0.01
    assert theirs.item() == pytest.approx(loss.mean().item(), abs=1e-4)


def test_packed_rows_train_the_same_run(recipe, rows, start, tmp_path, cpu_fp32):
    """Half the computing is worth nothing if the curve is another one: fp32, loss and rewards step by step."""
    table = {}
    for packed in (False, True):
        fast = replace(recipe, dpo=replace(recipe.dpo, packed=packed))
        run = dpo.train(fast, rows["dpo"], tmp_path / str(packed), start=start, watch=SILENT)
        table[packed] = history.load(run.path)
    for metric in ("loss", "margin", "reward_chosen", "reward_rejected", "grad_norm"):
        theirs, ours = (history.series(table[packed], metric) for packed in (False, True))
        assert ours.index.tolist() == theirs.index.tolist()
        assert ours.to_list() == pytest.approx(theirs.to_list(), rel=2e-3, abs=2e-4), metric
