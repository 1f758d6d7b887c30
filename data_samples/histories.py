"""Make the shipped histories: `make histories`, about 15 minutes on two cores.

Real runs of the built-in model, logged as any run is: metrics at every step, and held-out pairs at five of them, at the
first and the last one token by token. With them every picture and widget of the notebooks runs in seconds, without
training. What is there is kept; name one to make it anew: `python data_samples/histories.py dpo_beta_01`.
"""

import json
import shutil
import sys
from pathlib import Path

from hermes_nb import audit, dpo, formats, lessons, models, pipeline, recipes, runs, runtime, sft

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "runs" / "histories"
PUBLISHED = {"loss": ["sigmoid"], "loss_weights": []}

# name: title, recipe, what is changed in its dpo stage, file of training pairs
DPO = {
    "dpo_beta_001": ("beta 0.01", "course", {"beta": 0.01}, None),
    "dpo_beta_01": ("beta 0.1", "course", {}, None),
    "dpo_beta_05": ("beta 0.5", "course", {"beta": 0.5}, None),
    "too_easy": ("rejected is always the same short sentence", "course", {}, "too_easy.jsonl"),
    "cut_stop": ("chosen loses its stop token where rejected ends", "course", {"max_length": 84, "too_long": "cut"},
                 "cut_stop.jsonl"),
    "neuralhermes_as_published": ("NeuralHermes, the published loss", "neuralhermes", PUBLISHED, None),
    "neuralhermes_repaired": ("NeuralHermes, with an sft term on chosen", "neuralhermes", {}, None),
}  # fmt: skip


def trained(name: str, recipe_name: str, changes: dict, file: str | None):
    """Train one of `DPO` with four looks, and return its run."""
    recipe = recipes.load(recipe_name, "tiny", overrides={"dpo": changes})
    out = WORK / name
    shutil.rmtree(out, ignore_errors=True)
    pipeline.format_rows(recipes.load(recipe_name, "tiny"), WORK / recipe_name)
    rows = dict(pipeline.rows_of(WORK / recipe_name, "dpo"))
    if file:
        found = formats.load("orca_dpo_pairs", file)
        cut = "max_length" in changes
        kept = found if cut else audit.pairs(found, models.tokenizer("builtin", "chatml"), 384).kept
        rows["train"] = kept.shuffle(seed=0)
    return dpo.train(recipe, rows, out, lessons.shipped("sft") if recipe.sft else None)


def ship(name: str, title: str, run) -> None:
    """Write a run's history to `history_NAME.jsonl`, with its title, machine and versions in the first line."""
    lines = (run.path / "history.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    here = runtime.machine()
    about = {"title": title, "chip": here.chip, "dtype": here.dtype, "versions": runs.versions()}
    first = json.loads(lines[0]) if "beta" in json.loads(lines[0]) else None
    rest = lines[1:] if first else lines
    text = "\n".join([json.dumps((first or {}) | about, ensure_ascii=False), *rest])
    (HERE / f"history_{name}.jsonl").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: written", flush=True)


def main(names: list[str]) -> None:
    """Make what is named, else what is missing."""
    runtime.quiet()

    def wanted(name: str) -> bool:
        return name in names if names else not (HERE / f"history_{name}.jsonl").is_file()

    for name, (title, *how) in DPO.items():
        if wanted(name):
            ship(name, title, trained(name, *how))
    if wanted("sft"):
        recipe = recipes.load("course", "tiny")
        pipeline.format_rows(recipe, WORK / "course")
        shutil.rmtree(WORK / "sft", ignore_errors=True)
        ship("sft", "SFT on a mixture of two styles", sft.train(recipe, pipeline.rows_of(WORK / "course", "sft"), WORK))


if __name__ == "__main__":
    main(sys.argv[1:])
