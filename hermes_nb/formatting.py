"""The stage `format`: a recipe's sources read, mixed and audited; the rows that are kept, on disk. Lesson:
01_preference_data.
"""

from pathlib import Path

from hermes_nb import audit, formats, models, runs
from hermes_nb.errors import DataProblem, FileProblem
from hermes_nb.recipes import Recipe
from hermes_nb.runs import Run

NEAR_ROWS = 20_000  # rows up to which near-duplicates are looked for, about 20 s on two cores


def format_rows(recipe: Recipe, out: Path) -> Run:
    """Stage `format`: load every source, audit it with the model's own tokens, keep the rows as parquet."""
    key = runs.recipe_key(recipe.to_dict(), "format")
    done = runs.finished(out, "format", key)
    if done:
        return done
    tokenizer = models.tokenizer(recipe.model.base, recipe.model.template, recipe.model.revision)
    with runs.stage(out, "format", key, recipe=recipe.name, scale=recipe.scale, seed=recipe.seed, parent=None) as work:
        (work / "rows").mkdir()
        reports = {}
        for name, part, check in (("sft", recipe.sft, audit.conversations), ("dpo", recipe.dpo, audit.pairs)):
            held_out = None
            for split in ("held_out", "train") if part else ():
                reading = formats.read_mixture(getattr(part, split), recipe.seed)
                near = len(reading.rows) <= NEAR_ROWS
                found = check(reading, tokenizer, part.max_length, held_out=held_out, near=near)
                if not len(found.kept):
                    raise DataProblem(f"{name}, {split}: nothing is left to use: {found.line()}.")
                found.kept.to_parquet(work / "rows" / f"{name}_{split}.parquet")
                reports[f"{name}_{split}"] = found.plain()
                held_out = found.kept
        sums = {k: sum(r[k] for r in reports.values()) for k in ("rows", "kept", "dropped")}
        runs.write_json(work / "audit.json", reports)
        runs.write_json(work / "stage.json", {"metrics": sums})
    return Run(out / "format")


def rows_of(out: Path, name: str) -> dict:
    """Formatted rows of stage `name` (`sft` or `dpo`): `train` and `held_out`."""
    import datasets
    import pyarrow.parquet

    files = {s: Path(out) / "format" / "rows" / f"{name}_{s}.parquet" for s in ("train", "held_out")}
    if not files["train"].is_file():
        raise FileProblem(f"{files['train']}: missing; run the format stage first (--stages format,{name}).")
    return {s: datasets.Dataset(pyarrow.parquet.read_table(f)) for s, f in files.items()}
