"""Supervised fine-tuning: conversations to an adapter, the answers' tokens trained, stop token included.

On TRL's SFTTrainer, in 4 bits (https://arxiv.org/abs/2305.14314). Lesson: 02_qlora_sft.
"""

from pathlib import Path

from trl import SFTConfig, SFTTrainer

from hermes_nb import training
from hermes_nb.errors import RecipeProblem
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run
from hermes_nb.runtime import machine


class RowTrainer(training.StepInParts, SFTTrainer):
    """SFTTrainer whose step is one batch of conversations in parts; its loss is the mean over the step's tokens."""

    pairs = False

    def lengths(self) -> list[tuple[int, int]]:
        """Tokens of every training row, cut where TRL cuts."""
        return [(min(n, self.args.max_length),) * 2 for n in map(len, self.train_dataset["input_ids"])]

    def outputs(self) -> tuple[str, ...]:
        """What TRL's loss and metrics ask of the head."""
        return ("log_probs", "entropy", "is_top1")

    def sizes(self, inputs: dict) -> list[int]:
        """Tokens of each row."""
        return inputs["attention_mask"].sum(1).tolist()

    def part(self, inputs: dict, rows: list[int]) -> dict:
        """These rows alone, no wider than the longest of them."""
        width = int(inputs["attention_mask"][rows].sum(1).max())
        return {name: t[rows][:, :width] for name, t in inputs.items()}

    def items(self, inputs: dict, given):
        """Trained tokens of the step, which every part's loss is divided by."""
        return given if given is not None else (inputs["labels"][:, 1:] != -100).sum()

    def share(self, inputs: dict, rows: list[int]) -> float:
        """The parts' losses are parts of the step's mean already."""
        return 1.0

    def whole_step(self) -> str | None:
        """TRL adds the loss for balancing experts to every part as a whole."""
        return "its loss for balancing experts is a mean over the step" if self.aux_loss_enabled else None

    def row_name(self, batch: dict) -> str:
        """The number of a conversation in the training rows, and its source where it is known."""
        ids = batch["input_ids"][0, : int(batch["attention_mask"][0].sum())].tolist()
        for i, row in enumerate(self.train_dataset):
            if row["input_ids"][: self.args.max_length] == ids:
                return f"row {i} of the training rows{self.from_where(row)}"
        return super().row_name(batch)

    def metric_weights(self, batches: list[dict]) -> dict[str, list[float]]:
        """By trained tokens."""
        return {"": [(b["labels"][:, 1:] != -100).sum().item() for b in batches]}


def train(
    recipe: Recipe, rows, out: Path | str, watch: training.Watch | None = None, model=None,
    start: Run | Path | str | None = None,
) -> Run:  # fmt: skip
    """Train an adapter on `rows` and leave it in `out/sft`; a finished stage is returned, not run again.

    `rows` is a Dataset of `messages`, or a mapping with `train` and `held_out`. `watch(rows, step, steps)` gets the
    metrics as they come. `model` is an already loaded 4-bit base, which is wrapped in place. `start` is a run or an
    adapter folder to go on from (a repair after DPO, say); None starts a fresh adapter.
    Raises RecipeProblem without an sft stage, RunProblem when `out/sft` is of another recipe, DataProblem for rows
    that would be cut, TrainingProblem when the loss is not finite.
    """
    if recipe.sft is None:
        raise RecipeProblem(f"recipe {recipe.name} has no sft stage; use its dpo stage, or recipe course.")

    def fit(*given):
        return _fit(recipe, watch, model, *given)

    return training.staged("sft", recipe, rows, out, start, watch, training.Engine, fit)


def _fit(recipe: Recipe, watch, model, rows, held_out, work: Path, adapter: Path | None, engine) -> training.Fitted:
    tokenizer, model = training.opened(recipe, adapter, model)
    recorder = training.Recorder(work, "SFT", watch)
    config = SFTConfig(
        **training.arguments(recipe.sft, machine(), len(rows), work / "checkpoints", recipe.seed),
        **training.tracking(recipe, "sft", work),
        assistant_only_loss=True,  # our template marks answers and their stop tokens
        neftune_noise_alpha=recipe.sft.neftune or None,  # in training only: held-out loss is without noise
        packing=False,
    )

    def build():
        columns = ["messages", *(c for c in ("source", "row") if c in rows.column_names)]
        trainer = RowTrainer(
            model=model, args=config, processing_class=tokenizer, train_dataset=rows.select_columns(columns),
            eval_dataset=None if held_out is None else held_out.select_columns(["messages"]),
        )  # fmt: skip
        if recipe.sft.too_long == "refuse":
            training.nothing_lost(trainer, len(rows), config.max_length, ("input_ids",))
        return trainer

    score = held_out is not None and recipe.sft.score_held_out
    return training.fit(build, model, recorder, score, ready=engine.start)
