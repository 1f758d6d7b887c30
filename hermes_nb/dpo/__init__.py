"""Direct preference optimization: pairs and a start to an adapter, with a proof that the reference is right.

On TRL's DPOTrainer. loss = -log sigmoid(margin), margin = reward_chosen - reward_rejected,
reward = beta * (logp_policy - logp_reference), https://arxiv.org/abs/2305.18290, Eq. 7. Lesson: 03_dpo.
"""

from pathlib import Path

from trl import DPOConfig

from hermes_nb import training
from hermes_nb.dpo.looking import Looker
from hermes_nb.dpo.proof import prove_start, prove_stored
from hermes_nb.dpo.referring import PairEngine
from hermes_nb.dpo.trainer import PairTrainer
from hermes_nb.errors import RecipeProblem
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run
from hermes_nb.runtime import machine

__all__ = ["PairEngine", "PairTrainer", "prove_start", "prove_stored", "train"]


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

    def fit(*given):
        return _fit(recipe, watch, model, *given)

    return training.staged("dpo", recipe, rows, out, start, watch, PairEngine, fit)


def _fit(recipe: Recipe, watch, model, rows, held_out, work: Path, adapter: Path | None, engine) -> training.Fitted:
    tokenizer, model = training.opened(recipe, adapter, model)
    recorder = training.Recorder(work, "DPO", watch)
    config = DPOConfig(
        **training.arguments(recipe.dpo, machine(), len(rows), work / "checkpoints", recipe.seed),
        **training.tracking(recipe, "dpo", work),
        beta=recipe.dpo.beta,
        loss_type=list(recipe.dpo.loss),
        label_smoothing=recipe.dpo.label_smoothing,
        loss_weights=list(recipe.dpo.loss_weights) or None,
        disable_dropout=True,  # the reference must not be drawn anew at each pass
    )

    def build():
        columns = [c for c in ("prompt", "chosen", "rejected", "source", "row") if c in rows.column_names]
        trainer = PairTrainer(
            model=model, args=config, processing_class=tokenizer, train_dataset=rows.select_columns(columns),
            eval_dataset=None if held_out is None else held_out.select_columns(columns[:3]),
        )  # fmt: skip
        if recipe.dpo.too_long == "refuse":
            training.nothing_lost(trainer, len(rows), config.max_length, ("prompt_ids", "chosen_ids", "rejected_ids"))
        if adapter is None:
            model.delete_adapter("ref")  # a fresh adapter is 0: the base with the adapter off is the reference
        return trainer

    def ready(trainer):
        engine.start(trainer)
        if held_out is not None and recipe.dpo.looks:
            trainer.add_callback(Looker(held_out, tokenizer, recipe.dpo, recorder))

    score = held_out is not None and recipe.dpo.score_held_out
    return training.fit(build, model, recorder, score, ready)
