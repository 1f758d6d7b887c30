"""What is watched while a model trains. Run alone: python -m pytest tests/test_training_watching.py"""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dpo_losses import drawn_adapter
from transformers import TrainerControl, TrainerState
from trl import DPOTrainer, SFTTrainer

from hermes_nb import dpo, models, runs, sft, training
from hermes_nb.errors import TrainingProblem
from hermes_nb.training.watching import FALL, LAST, first_bad

pytestmark = pytest.mark.usefixtures("frozen")
SILENT = lambda *a: None  # noqa: E731
KINDS = {"sft": sft.RowTrainer, "dpo": dpo.PairTrainer}


@pytest.fixture(scope="module")
def start(tiny_base, tmp_path_factory):
    return drawn_adapter(tiny_base, tmp_path_factory.mktemp("start"))


def train(stage, recipe, rows, out, start=None, **more):
    ours = replace(recipe, **{stage: replace(getattr(recipe, stage), **more)})
    if stage == "sft":
        return sft.train(ours, rows["sft"], out, watch=SILENT, start=start)
    return dpo.train(ours, rows["dpo"], out, start=start, watch=SILENT)


@pytest.mark.parametrize("stage", KINDS)
def test_a_start_that_is_no_number_is_refused_by_tensor(stage, recipe, rows, start, tmp_path):
    """A file of NaN loads, trains and ends "successfully" with a loss of 0."""
    folder = shutil.copytree(start, tmp_path / "start")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[5]
    tensors[name][1, 2] = math.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    short = name.removesuffix(".weight").split("model.")[-1]
    with pytest.raises(TrainingProblem, match=rf"{re.escape(short)}.*is not finite before the first step"):
        train(stage, recipe, rows, tmp_path / "out", folder)
    assert not (tmp_path / "out" / stage).exists()


def bad_gradient(monkeypatch, stage, at: int, value=math.nan):
    """Make one entry of the gradient of a tensor in the middle bad in step `at`; the weights before it are kept."""
    kind, kept = KINDS[stage], {}
    plain = kind.training_step

    def spoil(gradient):
        gradient = gradient.clone()
        gradient[0, 0] = value
        return gradient

    def training_step(self, model, *args, **more):
        if self.state.global_step + 1 != at:
            return plain(self, model, *args, **more)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        name, parameter = trained[len(trained) // 2]
        kept.update({"name": name, "weights": models.snapshot(model)})
        hook = parameter.register_hook(spoil)
        try:
            return plain(self, model, *args, **more)
        finally:
            hook.remove()

    monkeypatch.setattr(kind, "training_step", training_step)
    return kept


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_gradient_is_named(value, clip, recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """Clipped by a norm that is NaN, every gradient is; the tensor that began it must be the one that is named."""
    kept = bad_gradient(monkeypatch, "sft", at=2, value=value)
    with pytest.raises(TrainingProblem) as caught:
        train("sft", recipe, rows, tmp_path, max_grad_norm=clip)
    assert f"step 2: the gradient of {kept['name']} is not finite" in str(caught.value)


@pytest.mark.parametrize("stage", KINDS)
def test_a_bad_gradient_stops_before_the_update(stage, recipe, rows, start, cpu_fp32, tmp_path, monkeypatch):
    """After the update the weights are lost; before it they are the last good ones, and are kept where it is said."""
    kept = bad_gradient(monkeypatch, stage, at=2)
    with pytest.raises(TrainingProblem, match="step 2: the gradient of") as caught:
        train(stage, recipe, rows, tmp_path, start)
    good = Path(re.search(r"The last good state is (\S+)\.$", str(caught.value))[1])
    assert tmp_path in good.parents
    runs.verify(good)
    assert not list(good.rglob("*.bin")), "no pickle"
    loaded = models.load_adapter(models.load_4bit(recipe.model.base), good, trainable=True)
    weights = models.snapshot(loaded)
    assert weights.keys() == kept["weights"].keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, kept["weights"][name]), name
    assert not (tmp_path / stage).exists()


def test_the_first_step_has_no_state_to_keep(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """A message that names a folder that is not there sends people searching."""
    bad_gradient(monkeypatch, "sft", at=1)
    with pytest.raises(TrainingProblem, match="Nothing was saved before"):
        train("sft", recipe, rows, tmp_path)
    assert not list(tmp_path.glob(".sft.work/checkpoints/*-*"))


def bad_rows(monkeypatch, stage, which, from_step: int):
    """Make the loss NaN of every batch that holds the training row number `which`, from a step on."""
    kind = SFTTrainer if stage == "sft" else DPOTrainer
    plain = kind.compute_loss

    def compute_loss(self, model, inputs, *args, **more):
        loss = plain(self, model, inputs, *args, **more)
        row = self.train_dataset[which]
        ids = torch.tensor(row["input_ids"] if stage == "sft" else row["prompt_ids"] + row["rejected_ids"])
        held = any(torch.equal(i[: len(ids)], ids) and m.sum() == len(ids) for i, m in
                   zip(inputs["input_ids"], inputs["attention_mask"], strict=True))  # fmt: skip
        return loss * math.nan if held and self.state.global_step + 1 >= from_step else loss

    monkeypatch.setattr(kind, "compute_loss", compute_loss)


@pytest.mark.parametrize(("stage", "from_step"), [("dpo", 2), ("dpo", 1), ("sft", 2), ("sft", 1)])
def test_a_bad_row_is_named_by_number_and_source(stage, from_step, recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """Of a hundred thousand rows nobody finds the one whose loss is NaN; from the very first step, too."""
    marked = {stage: rows[stage].select(range(4, 8))}
    bad_rows(monkeypatch, stage, 2, from_step)
    with pytest.raises(TrainingProblem) as caught:
        train(stage, recipe, marked, tmp_path)
    assert f"step {from_step}: the loss is not finite" in str(caught.value)
    assert "row 2 of the training" in str(caught.value)
    assert "(here, row 6)" in str(caught.value), "as its file counts"


def test_of_two_pairs_that_share_a_chosen_answer_the_bad_one_is_named(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """One good answer against several bad ones is how mixtures are made."""
    pairs = rows["dpo"].select(range(4)).to_list()
    pairs[3] |= {"prompt": pairs[1]["prompt"], "chosen": pairs[1]["chosen"]}
    bad_rows(monkeypatch, "dpo", 3, 2)
    with pytest.raises(TrainingProblem, match=r"row 3 of the training pairs \(here, row 3\)"):
        train("dpo", recipe, {"dpo": datasets.Dataset.from_list(pairs)}, tmp_path)


def test_a_bad_pair_is_named_where_rows_are_cut(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """Cut at `max_length`, a pair is no longer the one that stands in the rows, and TRL has left out some before it."""
    plain, seen = DPOTrainer.compute_loss, {}

    def compute_loss(self, model, inputs, *args, **more):
        seen["left"] = len(self.train_dataset)
        if not torch.is_grad_enabled() and self.state.global_step:
            seen.setdefault("bad", self.processing_class.decode(inputs["input_ids"][0].tolist()))
        loss = plain(self, model, inputs, *args, **more)
        return loss * math.nan if self.state.global_step else loss

    monkeypatch.setattr(DPOTrainer, "compute_loss", compute_loss)
    with pytest.raises(TrainingProblem) as caught:
        train("dpo", recipe, rows, tmp_path, max_length=27, too_long="cut")
    assert seen["left"] < 12
    (number,) = [i for i in range(12) if f"user\n{rows['dpo'][i]['prompt'][0]['content']}<|im_end|>" in seen["bad"]]
    assert f"(here, row {number})" in str(caught.value)


@pytest.mark.parametrize("saved", [True, False])
def test_bad_weights_after_an_update_are_not_saved(saved, recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """An update that overflows would be in the next state on disk; the one before it is named."""
    plain, calls = torch.optim.AdamW.step, []

    def step(self, *args, **more):
        out = plain(self, *args, **more)
        calls.append(1)
        if len(calls) == 2:
            self.param_groups[0]["params"][1].data[0, 0] = math.inf
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingProblem, match=r"step 2: \S*lora_\S+ is not finite after the update") as caught:
        train("sft", recipe, rows, tmp_path, checkpoints=3 if saved else 1)
    work = tmp_path / ".sft.work" / "checkpoints"
    assert ("checkpoint-1." in str(caught.value)) == saved
    assert ("Nothing was saved before" in str(caught.value)) != saved
    assert [p.name for p in work.glob("*-*")] == (["checkpoint-1"] if saved else [])


def test_a_bad_adapter_behind_a_bad_loss_is_named(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """Then it is not the rows, and auditing them would be in vain."""
    plain = sft.RowTrainer.training_step

    def training_step(self, model, *args, **more):
        if self.state.global_step == 1:
            trained = [p for _, p in model.named_parameters() if p.requires_grad]
            trained[3].data[0, 0] = math.nan
        return plain(self, model, *args, **more)

    monkeypatch.setattr(sft.RowTrainer, "training_step", training_step)
    with pytest.raises(TrainingProblem, match=r"step 2: the loss is not finite; the first bad tensor is \S*lora_"):
        train("sft", recipe, rows, tmp_path)


def test_bad_numbers_by_hand():
    """Sums overflow where every entry is finite; that is not bad. Missing gradients are passed over."""
    big = torch.full((4,), 3e38)
    assert first_bad([]) is None
    assert first_bad([("none", None)]) is None
    assert first_bad([("a", torch.ones(3)), ("big", big), ("none", None)]) is None
    assert first_bad([("big", big), ("b", torch.tensor([1.0, math.nan])), ("c", torch.tensor([math.inf]))]) == "b"
    assert first_bad([("half", torch.tensor([6e4], dtype=torch.float16)), ("c", torch.tensor([-math.inf]))]) == "c"
    assert first_bad([("a", torch.tensor([math.inf, -math.inf]))]) == "a"


# likelihood displacement: the margin grows while the chosen answers grow less likely


def curve(chosen, margin):
    """Lines of notes, step by step."""
    watch = training.Displacement()
    pairs = zip(chosen, margin, strict=True)
    return [watch.line({"rewards/chosen": c, "rewards/margins": m}) for c, m in pairs]


FALLING, GROWING = [-0.05 * k for k in range(14)], [0.1 * k for k in range(14)]


def test_displacement_is_told_once_when_it_is_due():
    """Chosen rewards 0, -0.05, ...: the mean of the last 5 of 10 is -0.35; it fell below -0.1 and below the 5 before.

    That is step 10, the first with two windows; then it is known.
    """
    lines = curve(FALLING, GROWING)
    assert [k for k, line in enumerate(lines) if line] == [2 * LAST - 1]
    assert "reward_chosen -0.35" in lines[2 * LAST - 1]
    assert "03_dpo" in lines[2 * LAST - 1]


@pytest.mark.parametrize(
    ("chosen", "margin"),
    [
        ([-k for k in FALLING], GROWING),  # both grow: as it should be
        (FALLING, [0.0] * 14),  # no margin: something else is wrong
        (FALLING, [-m for m in GROWING]),
        ([-FALL / 2 - 0.001 * k for k in range(14)], GROWING),  # too little to speak of
        ([-1.0 + 0.01 * k for k in range(14)], GROWING),  # low, and on its way up again
        (FALLING[: 2 * LAST - 1], GROWING[: 2 * LAST - 1]),  # too early to tell
    ],
)
def test_displacement_is_not_told_otherwise(chosen, margin):
    """A note that is always there is read by nobody."""
    assert not any(curve(chosen, margin))


def test_displacement_reaches_the_screen_and_the_record(tmp_path, capsys):
    """Once, below the bar, and in `run.json`; SFT, which has no rewards, has none."""
    recorder = training.Recorder(tmp_path, "DPO", watch=SILENT)
    for k, (chosen, margin) in enumerate(zip(FALLING, GROWING, strict=True)):
        logs = {"loss": 0.5, "rewards/chosen": chosen, "rewards/margins": margin}
        recorder.on_log(None, TrainerState(global_step=k + 1, max_steps=14), TrainerControl(), logs=logs)
    recorder.close()
    assert len(recorder.notes) == 1
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("likelihood displacement") == 1
    quiet = training.Displacement()
    assert not any(quiet.line({"loss": 0.5}) for _ in range(20))
