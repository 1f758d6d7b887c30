"""The frame of a training stage: found again where it is finished, else made in its work folder and saved."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import set_seed

from hermes_nb import models, runs
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run
from hermes_nb.training.arguments import digest, split, start_of
from hermes_nb.training.engine import Engine
from hermes_nb.training.fitting import Fitted, stopped
from hermes_nb.training.recorder import Watch, replay
from hermes_nb.training.tracking import tracked


def staged(
    name: str, recipe: Recipe, rows, out: Path | str, start, watch: Watch | None, engine: type[Engine],
    fit: Callable[..., Fitted],
) -> Run:  # fmt: skip
    """Train stage `name` (`sft` or `dpo`) of a recipe and leave it in `out`; a finished one is returned, not run again.

    One that was stopped before its last step is whole as well, and says so in `run.json` (`stopped`); it goes on here.
    `fit(train rows, held-out rows, work folder, adapter to start from, engine)` trains. Raises RunProblem when the
    stage is of another recipe, other rows or another start.
    """
    train_rows, held_out = split(rows)
    adapter, parent = start_of(start)
    key = runs.fingerprint(runs.recipe_key(recipe.to_dict(), name), digest(train_rows), digest(held_out), parent)
    done = runs.finished(Path(out), name, key)
    if done:
        return replay(done, watch)
    with runs.stage(out, name, key, recipe=recipe.name, scale=recipe.scale, seed=recipe.seed, parent=parent) as work:
        set_up = engine(recipe.sft if name == "sft" else recipe.dpo, work)
        fitted = tracked(recipe, work, partial(fit, train_rows, held_out, work, adapter, set_up))
        models.save_adapter(fitted.trainer.model, work / "adapter", recipe.model.base, recipe.model.revision)
        models.save_tokenizer(fitted.trainer.processing_class, work / "adapter", recipe.model.revision)
        told = {"metrics": fitted.metrics, "engine": set_up.told, "stopped": stopped(fitted.trainer)}
        runs.write_json(work / "stage.json", told)
    return Run(Path(out) / name)


def opened(recipe: Recipe, adapter: Path | None, model=None):
    """Tokenizer and model of a recipe, seeded: `model` or its base in 4 bits, with `adapter` or a fresh one on it.

    Raises FileProblem for a tokenizer that gives other ids once it is saved, before hours are spent on it.
    """
    tokenizer = models.tokenizer(recipe.model.base, recipe.model.template, recipe.model.revision)
    with tempfile.TemporaryDirectory() as place:
        models.save_tokenizer(tokenizer, Path(place), recipe.model.revision)
    set_seed(recipe.seed)
    if model is None:
        model = models.load_4bit(recipe.model.base, revision=recipe.model.revision, needs_gb=recipe.needs_gb)
    if adapter:
        return tokenizer, models.load_adapter(model, adapter, trainable=True)
    return tokenizer, models.add_lora(model, recipe.lora)
