"""What each command does: its arguments in, the exit status out; libraries are loaded where they are needed."""

import dataclasses
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from hermes_nb.errors import RecipeProblem


def doctor(args) -> int:
    """What this machine is, and what was chosen for it."""
    from hermes_nb import runs, runtime

    facts = runtime.machine().to_dict() | {"versions": runs.versions(), "cache": str(runtime.cache_dir())}
    facts["token"] = "found" if runtime.token() else "none (public models need none)"
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def _lines(facts: dict) -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in facts.pop("versions").items())
    return [f"{k:14} {v:.1f}" if isinstance(v, float) else f"{k:14} {v}" for k, v in facts.items()] + [
        f"{'versions':14} {versions}"
    ]


def run(args) -> int:
    """Run a recipe's stages into a run directory."""
    from hermes_nb import pipeline, recipes, runtime

    recipe = recipes.load(args.recipe, args.scale, args.variant, args.set)
    out = args.out or Path("runs") / recipe.name
    here = runtime.machine()
    if recipe.scale != here.scale:
        here = dataclasses.replace(here, scale=recipe.scale, scale_reason="asked for")
    print(f"{here.line()}\n{recipe.name}: {recipe.title} · model {recipe.model.base} · into {out}")
    meta = pipeline.run(
        recipe, out, [s.strip() for s in args.stages.split(",") if s.strip()], say=print, start=args.start
    )
    print(f"done in {meta['seconds']:.0f} s, peak {meta['peak_gb']:.1f} GB: {out}")
    return 0


def merge(args) -> int:
    """Merge an adapter, or a chain of them, into its base; what was left open is told with its reason."""
    from hermes_nb import merge

    adapter = [args.adapter, *args.then] if args.then else args.adapter
    with _bar("merge") as watch:
        out = merge.merge(args.base, adapter, args.out, args.onto, args.dtype, args.max_shard_size, args.revision,
                          args.template, watch)  # fmt: skip
    print(out)
    if "auto" in (args.onto, args.dtype):
        last = args.then[-1] if args.then else args.adapter
        print(f"hermes_nb: {merge.choose(last, args.onto, args.dtype).reason}", file=sys.stderr)
    return 0


@contextmanager
def _bar(what: str):
    """A function of (bytes done, bytes in all, name) that draws a bar where stderr is a terminal, else nothing."""
    from tqdm import tqdm

    # what is done already, as when the folder stands there, leaves no bar
    with tqdm(desc=what, unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:

        def watch(done: int, total: int, name: str) -> None:
            bar.total, bar.leave = total, True
            bar.update(done - bar.n)

        yield watch


def export(args) -> int:
    """The files of a run that would be published, or (with --push) where they now are."""
    from hermes_nb import publish

    if args.push and args.to:
        raise RecipeProblem("--to is for the dry run; give either --to or --push.")
    folder = publish.exported(args.run, args.what)
    ours = args.run / "export" / args.what  # made anew each time
    place = None if args.push else args.to or ours.with_name(f".{args.what}.new")
    if not (args.push or args.to):
        shutil.rmtree(place, ignore_errors=True)
    told = publish.push(folder, args.repo, args.run, private=not args.public, dry_run=place)
    print(publish.text(told if args.push or args.to else _in_place(told, place, ours, folder)))
    return 0


def _in_place(told, made: Path, place: Path, model: Path):
    """Put the new export where the old one is; a card that reads otherwise there may be somebody's work and stays."""
    card, notes = place / "README.md", told.notes
    if card.is_file() and card.read_bytes() != (made / "README.md").read_bytes():
        shutil.copyfile(card, made / "README.md")
        note = f"README.md: as it stood in {place}, other than written from the run; to publish it, copy it to {model}."
        notes = (*notes, f"{note} Delete it to have it written.")
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)
    return dataclasses.replace(told, where=str(place), notes=notes)


def evaluate(args) -> int:
    """What the models of a finished run write."""
    from hermes_nb import evaluate, pipeline, recipes

    pipeline.run(recipes.read(args.run / "recipe.yaml"), args.run, ["evaluate"])
    report = evaluate.report(args.run)
    if args.results:
        pipeline.publish_results(args.run, args.results, Path("README.md"))
    print(json.dumps(report, indent=2) if args.json else evaluate.text(report))
    return 0


def audit(args) -> int:
    """Every row of a file, kept or dropped; 1 with --strict where a row is at fault."""
    from hermes_nb import audit, formats, models, runs

    source = formats.detect(args.file) if args.format == "auto" else args.format
    check = audit.pairs if formats.reader(source).makes == "pairs" else audit.conversations
    tokenizer = models.tokenizer(args.model, args.template)
    rows = formats.Stream(source, args.file, variant=args.variant)
    others = formats.load(formats.detect(args.held_out), args.held_out) if args.held_out else None
    near = not args.no_near_duplicates
    found = check(rows, tokenizer, args.max_length, held_out=others, benchmark=args.benchmark, near=near,
                  progress=sys.stderr.isatty())  # fmt: skip
    print(audit.text(found, source))
    if args.json:
        runs.write_json(args.json, found.report)
    return 1 if args.strict and found.report["dropped"] else 0


def estimate(args) -> int:
    """What a recipe takes on a GPU."""
    from hermes_nb import estimate, recipes, roofline, runs

    if args.check:
        told = {"systems": estimate.published()}
        print(estimate.check_text(told["systems"]))
    else:
        if args.recipe is None:
            raise RecipeProblem(f"name a recipe ({', '.join(recipes.names())}, or a YAML file), or use --check.")
        chip = roofline.gpu(args.gpu)
        scale = estimate.scale_for(chip) if args.scale == "auto" else args.scale
        told = estimate.recipe(recipes.load(args.recipe, scale, args.variant, args.set), chip)
        print(estimate.text(told))
    if args.json:
        runs.write_json(args.json, told)
    return 0


def bench(args) -> int:
    """Two sides measured in one run; 1 when a promised ratio is missed."""
    from hermes_nb import bench, runs

    if args.what == "data":
        told = bench.data(args.rows, args.repeats, memory=args.memory)
        print(bench.audit_text(told))
    elif args.what == "merge":
        told = bench.merge(args.size, args.repeats)
        print(bench.merging_text(told))
    else:
        told = bench.dpo(args.lengths, args.model, args.pairs, args.repeats, checkpointing=args.checkpointing,
                         against=args.against)  # fmt: skip
        print(bench.training_text(told))
    if args.json:
        runs.write_json(args.json, told)
    if args.readme:
        bench.write_readme(args.what, args.readme)
    return 1 if told["misses"] else 0


def course(args) -> int:
    """Run the notebooks, or stamp them."""
    from hermes_nb import course, stamp

    if args.stamp:
        print("stamped:", ", ".join(stamp.stamp()) or "nothing, all is as pyproject.toml says")
        return 0
    return course.run(args.notebooks, args.out, args.in_place)
