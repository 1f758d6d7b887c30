"""Trackers: where a recipe says `report_to`, the metrics go to TensorBoard, Trackio or Weights & Biases as well.

transformers' own callbacks write them. Here stands what those leave open: the folder, the name, that nothing is sent
unasked, and that what is logged behind the last step (the scores of held-out rows) gets there too.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hermes_nb import runs
from hermes_nb.errors import ResourceProblem
from hermes_nb.recipes import Recipe
from hermes_nb.training.fitting import Fitted

FOLDER = "tracker"  # in the stage's folder


def tracking(recipe: Recipe, stage: str, work: Path) -> dict:
    """Arguments for SFTConfig and DPOConfig that say where stage `stage` (`sft` or `dpo`) of a recipe is reported to.

    `work` is the stage's work folder. The run is called RECIPE-SCALE-STAGE and the time it began at; one that was
    interrupted goes on under the name it had.
    """
    if recipe.report_to == "none":
        return {"report_to": "none"}
    told = {"report_to": recipe.report_to, "run_name": _name(recipe, stage, Path(work)), "project": recipe.name}
    return told | {"trackio_static_space_id": False}  # no copy of the curves goes to the hub


def tracked(recipe: Recipe, work: Path, fit: Callable[[], Fitted]) -> Fitted:
    """Call `fit()` with the recipe's tracker set up around it, and close that before the stage is sealed.

    TensorBoard's event files are in `work/tracker`. Trackio writes to its own folder (`TRACKIO_DIR`) on this machine.
    W&B does what its own settings say, and keeps its files in `wandb` beside the stages; transformers sends it the
    trainer's arguments and the model's configuration too, the path of the run among them. A killed run that goes on
    reports the steps behind its last checkpoint a second time.
    Raises ResourceProblem where the package is not installed.
    """
    if recipe.report_to == "none":
        return fit()
    if importlib.util.find_spec(recipe.report_to) is None:
        raise ResourceProblem(
            f"report_to {recipe.report_to}: that package is not installed; pip install {recipe.report_to}, or set "
            f"report_to=none."
        )
    around = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}[recipe.report_to]
    with around(recipe, Path(work) / FOLDER):
        fitted = fit()
        _close_boards(fitted.trainer)
    return fitted


def _name(recipe: Recipe, stage: str, work: Path) -> str:
    """Name of the run: kept in a file, since a tracker adds to the run of the same name, and a new one is another."""
    file = work / FOLDER / "name.txt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        runs.write_text(file, f"{recipe.name}-{recipe.scale}-{stage}-{time.strftime('%Y%m%d-%H%M%S')}\n")
    return file.read_text(encoding="utf-8").strip()


def _close_boards(trainer) -> None:
    """Close TensorBoard's writer: transformers 5.23 does so at the last step, and scoring opens another for good."""
    from transformers.integrations import TensorBoardCallback

    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.on_train_end(trainer.args, trainer.state, trainer.control)


@contextmanager
def _tensorboard(recipe: Recipe, folder: Path) -> Iterator[None]:
    """In the run, but not among its checkpoints, of which old ones are deleted."""
    with _environment(TENSORBOARD_LOGGING_DIR=str(folder)):
        yield


@contextmanager
def _wandb(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Project and folder as the recipe and the run say, where the environment does not.

    The folder is `wandb` beside the stages: W&B writes there after the run too, and a stage is sealed.
    """
    ours = {"WANDB_PROJECT": recipe.name, "WANDB_DIR": str(folder.parent.parent)}
    with _environment(**{name: value for name, value in ours.items() if name not in os.environ}):
        import wandb

        try:
            yield
        finally:
            wandb.finish()


@contextmanager
def _trackio(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Without what trackio 0.43 would do unasked: in a notebook it starts a server and shows its dashboard (on Colab
    behind a public address), and where a hub token lies it asks the hub for the user's name."""
    import trackio
    from trackio.run import Run

    init, username = trackio.init, Run._get_username
    trackio.init, Run._get_username = partial(init, embed=False), lambda run: None
    try:
        yield
    finally:
        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()  # transformers does so at the last step, and scoring opens the run again
        trackio.init, Run._get_username = init, username


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
