"""Direct preference optimization: pairs and a start to an adapter, with a proof that the reference is right.

On TRL's DPOTrainer. loss = -log sigmoid(margin), margin = reward_chosen - reward_rejected,
reward = beta * (logp_policy - logp_reference), https://arxiv.org/abs/2305.18290, Eq. 7. Lesson: 03_dpo.
"""

import math
from pathlib import Path

from transformers import set_seed
from trl import DPOConfig, DPOTrainer

from hermes_nb import models, packing, runs, training
from hermes_nb.errors import RecipeProblem, TrainingProblem
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run
from hermes_nb.runtime import machine

TOLERANCE = 1e-6


def prove_start(loss: float, rewards: dict[str, float], plain_sigmoid: bool) -> None:
    """Refuse to train unless policy and reference are the same model at step 0.

    Then both rewards and the margin are 0, and the sigmoid loss is ln 2, on whatever rows.
    Raises TrainingProblem with the figures.
    """
    off = {name: value for name, value in rewards.items() if not abs(value) <= TOLERANCE}
    if plain_sigmoid and not abs(loss - math.log(2)) <= TOLERANCE:
        off["loss - ln 2"] = loss - math.log(2)
    if off:
        figures = ", ".join(f"{name} {value:+.2e}" for name, value in off.items())
        raise TrainingProblem(
            f"step 0: policy and reference are not the same model ({figures}; each must be 0). The adapter was rounded "
            f"or the reference is another model, so every reward would be off; start from an adapter of this base."
        )


class ProvingTrainer(DPOTrainer):
    """TRL's DPOTrainer, with the proof of the reference on every micro-batch before the first update."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss; on the first step its rewards are checked."""
        out = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.state.global_step == 0 and model.training:
            loss = out[0] if return_outputs else out
            logged = self._metrics["train"]
            rewards = {n: logged[f"rewards/{n}"][-1] for n in ("chosen", "rejected", "margins")}
            prove_start(loss.item(), rewards, self.args.loss_type == ["sigmoid"])
        return out


def train(
    recipe: Recipe, rows, out: Path | str, start: Run | Path | str | None = None, watch: training.Watch | None = None,
    model=None,
) -> Run:  # fmt: skip
    """Train an adapter on the pairs in `rows` and leave it in `out/dpo`; a finished stage is returned, not run again.

    `rows` is a Dataset of `prompt, chosen, rejected`, or a mapping with `train` and `held_out`. `start` is a run or an
    adapter folder whose model is both the start and the reference; None starts a fresh adapter, with the base as the
    reference. `watch(rows, step, steps)` gets the metrics as they come. `model` is an already loaded 4-bit base.
    Raises RecipeProblem without a dpo stage, RunProblem when `out/dpo` is of another recipe or start, DataProblem for
    rows that would be cut, TrainingProblem when step 0 does not prove the reference or the loss is not finite.
    """
    if recipe.dpo is None:
        raise RecipeProblem(f"recipe {recipe.name} has no dpo stage.")
    train_rows, held_out = training.split(rows)
    adapter, parent = training.start_of(start)
    key = runs.fingerprint(
        runs.recipe_key(recipe.to_dict(), "dpo"), training.digest(train_rows), training.digest(held_out), parent
    )
    done = runs.finished(Path(out), "dpo", key)
    if done:
        return training.replay(done, watch)
    with runs.stage(out, "dpo", key, recipe=recipe.name, scale=recipe.scale, seed=recipe.seed, parent=parent) as work:
        fitted = _fit(recipe, train_rows, held_out, work, adapter, watch, model)
        models.save_adapter(fitted.trainer.model, work / "adapter", recipe.model.base, recipe.model.revision)
        fitted.trainer.processing_class.save_pretrained(work / "adapter")
        runs.write_json(work / "stage.json", {"metrics": fitted.metrics, "batch": recipe.dpo.batch_line()})
    return Run(Path(out) / "dpo")


def pack(trainer) -> None:
    """Let a trainer compute its pairs packed: policy and reference alike. Raises RecipeProblem where it cannot."""
    base = trainer.model.get_base_model()
    longest = max(
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in trainer.train_dataset
    )
    why = packing.why_not(base.config, longest)
    if why:
        raise RecipeProblem(f"dpo.packed: this model cannot be served exactly, because {why}; leave packed out.")
    packing.install(base)


def _fit(recipe: Recipe, rows, held_out, work: Path, adapter: Path | None, watch, model) -> training.Fitted:
    set_seed(recipe.seed)
    tokenizer = models.tokenizer(recipe.model.base, recipe.model.template, recipe.model.revision)
    if model is None:
        model = models.load_4bit(recipe.model.base, revision=recipe.model.revision, needs_gb=recipe.needs_gb)
    model = models.load_adapter(model, adapter, trainable=True) if adapter else models.add_lora(model, recipe.lora)
    recorder = training.Recorder(work, "DPO", watch)
    config = DPOConfig(
        **training.arguments(recipe.dpo, machine(), len(rows), work / "checkpoints", recipe.seed),
        beta=recipe.dpo.beta,
        loss_type=list(recipe.dpo.loss),
        loss_weights=list(recipe.dpo.loss_weights) or None,
        disable_dropout=True,  # the reference must not be drawn anew at each pass
    )

    def build():
        columns = ["prompt", "chosen", "rejected"]
        trainer = ProvingTrainer(
            model=model, args=config, processing_class=tokenizer, train_dataset=rows.select_columns(columns),
            eval_dataset=None if held_out is None else held_out.select_columns(columns),
        )  # fmt: skip
        if recipe.dpo.too_long == "refuse":
            training.nothing_lost(trainer, len(rows), config.max_length, ("prompt_ids", "chosen_ids", "rejected_ids"))
        if adapter is None:
            model.delete_adapter("ref")  # a fresh adapter is 0: the base with the adapter off is the reference
        if recipe.dpo.packed:
            pack(trainer)
        return trainer

    return training.fit(build, model, recorder, score=held_out is not None and recipe.dpo.score_held_out)
