"""The stages from a shell: `python -m hermes_nb COMMAND`.

Exit status: 0 done, 1 the check asked for did not hold, 2 the request could not be served (one sentence says why).
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from hermes_nb import __version__
from hermes_nb.errors import RecipeProblem, RequestError
from hermes_nb.runtime import SCALES, quiet


def parser() -> argparse.ArgumentParser:
    """The command line, with help that reads well."""
    top = argparse.ArgumentParser(
        prog="hermes_nb", description="Preference-tune a language model: raw rows to a merged model that answers.",
        epilog="Try: hermes_nb run course --out runs/c",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"hermes_nb {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what this machine is, and what was chosen for it and why")
    doctor.add_argument("--json", action="store_true", help="print JSON")

    run = commands.add_parser("run", help="run a recipe: format, sft, dpo, merge, evaluate")
    run.add_argument("recipe", help="name of a shipped recipe (course, neuralhermes) or path of a YAML file")
    run.add_argument("--scale", choices=[*SCALES, "auto"], default="auto", help="sizes; auto looks at the machine")
    run.add_argument("--variant", default="repaired", help="repaired (default), or another that the recipe has")
    run.add_argument("--out", type=Path, help="run directory (default runs/RECIPE)")
    run.add_argument("--stages", default="format,sft,dpo,merge,evaluate", help="comma-separated (default: all five)")
    run.add_argument("--start", type=Path, metavar="ADAPTER", help="start DPO from this adapter folder")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. dpo.beta=0.2")

    merge = commands.add_parser("merge", help="merge an adapter into its base, as a plain model folder")
    merge.add_argument("base", help="builtin, a model folder, or a hub name")
    merge.add_argument("adapter", type=Path, help="folder of the adapter")
    merge.add_argument("out", type=Path, help="folder to write; must not exist")
    merge.add_argument("--onto", default="auto", help="auto, dequantized or original")
    merge.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32")
    merge.add_argument("--max-shard-size", default="2GB")
    merge.add_argument("--revision", help="commit of a hub base")

    evaluate = commands.add_parser("evaluate", help="what the models of a finished run write, with 95 %% intervals")
    evaluate.add_argument("run", type=Path, help="run directory, such as runs/course")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--results", type=Path, metavar="FILE", help="also write FILE and the table in README.md")

    _add_course(commands)
    _add_data(commands)
    return top


def _add_course(commands) -> None:
    course = commands.add_parser("course", help="run the notebooks top to bottom")
    course.add_argument("notebooks", nargs="*", help="names such as 00_tour (default: all)")
    course.add_argument("--out", type=Path, default=Path("runs/course"), help="executed notebooks, pictures, HTML")
    course.add_argument("--in-place", action="store_true", help="write the outputs into notebooks/, normalised")
    course.add_argument("--stamp", action="store_true", help="write badges and setup cells from pyproject.toml")


def _add_data(commands) -> None:
    check = commands.add_parser("audit", help="every row of a file kept, or dropped with a reason")
    check.add_argument("file", help="JSONL, JSON, CSV or parquet file (also looked up in data_samples/)")
    check.add_argument("--format", default="auto", help="source whose schema it has (default: told by its columns)")
    check.add_argument("--model", default="builtin", help="builtin, a model folder, or a hub name: whose tokens count")
    check.add_argument("--template", default="chatml", help="chatml or zephyr")
    check.add_argument("--max-length", type=int, default=1024, help="tokens of prompt and answer together")
    check.add_argument("--held-out", metavar="FILE", help="rows that training must not hold")
    check.add_argument("--benchmark", metavar="FILE", help="benchmark questions that training must not hold")
    check.add_argument("--no-near-duplicates", action="store_true", help="leave out the slower pass")
    check.add_argument("--variant", help="read the file as a published system did, such as neuralhermes")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the report")
    check.add_argument("--strict", action="store_true", help="exit with 1 when any row is at fault")

    estimate = commands.add_parser("estimate", help="what a recipe takes on a GPU: tokens, FLOPs, memory, time")
    estimate.add_argument("recipe", nargs="?", help="name of a shipped recipe or path of a YAML file")
    estimate.add_argument("--gpu", default="a100-40", help="a100-40 (default), a100-80, h100, h200, l4, t4, rtx4090")
    estimate.add_argument("--scale", choices=[*SCALES, "auto"], default="auto", help="sizes; auto looks at the GPU")
    estimate.add_argument("--variant", default="repaired")
    estimate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override")
    estimate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    estimate.add_argument("--check", action="store_true", help="hold it against two published durations instead")

    bench = commands.add_parser("bench", help="measure two sides in one run; exit 1 when a promised ratio is missed")
    bench.add_argument("what", choices=["data", "dpo"])
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    bench.add_argument("--readme", type=Path, metavar="FILE", help="also draw this README's table anew")
    bench.add_argument("--repeats", type=int, default=3)
    bench.add_argument("--rows", type=int, default=6000, help="data: rows that are audited")
    bench.add_argument("--memory", type=int, default=0, metavar="ROWS", help="data: compare memory with 10,000 rows")
    bench.add_argument("--lengths", default="ultrafeedback", help="dpo: ultrafeedback, hh, orca, or a file of pairs")
    bench.add_argument("--model", default="builtin", help="dpo: builtin, or mistral-7b-shape on a GPU")
    bench.add_argument("--against", default="trl", help="dpo: trl, or trl,unsloth")
    bench.add_argument("--pairs", type=int, default=4, help="dpo: pairs a step")
    bench.add_argument("--checkpointing", action="store_true", help="dpo: gradient checkpointing on our side too")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    args = parser().parse_args(arguments)
    quiet()
    try:
        return COMMANDS[args.command](args)
    except RequestError as error:
        print(f"hermes_nb: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our lines, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(
            f"hermes_nb: {error.filename or 'disk'}: {error.strerror or error}; check path, rights and space.",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:
        print(f"hermes_nb: {error.name} is not installed; pip install 'hermes_nb[dev]' brings it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hermes_nb: stopped; finished stages are kept.", file=sys.stderr)
        return 130


def _doctor(args) -> int:
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


def _run(args) -> int:
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


def _merge(args) -> int:
    from hermes_nb import merge

    print(merge.merge(args.base, args.adapter, args.out, args.onto, args.dtype, args.max_shard_size, args.revision))
    return 0


def _evaluate(args) -> int:
    from hermes_nb import evaluate, pipeline, recipes

    pipeline.run(recipes.read(args.run / "recipe.yaml"), args.run, ["evaluate"])
    report = evaluate.report(args.run)
    if args.results:
        pipeline.publish_results(args.run, args.results, Path("README.md"))
    print(json.dumps(report, indent=2) if args.json else evaluate.text(report))
    return 0


def _audit(args) -> int:
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


def _estimate(args) -> int:
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


def _bench(args) -> int:
    from hermes_nb import bench, runs

    if args.what == "data":
        told = bench.data(args.rows, args.repeats, memory=args.memory)
        print(bench.audit_text(told))
    else:
        told = bench.dpo(args.lengths, args.model, args.pairs, args.repeats, checkpointing=args.checkpointing,
                         against=args.against)  # fmt: skip
        print(bench.training_text(told))
    if args.json:
        runs.write_json(args.json, told)
    if args.readme:
        bench.write_readme(args.what, args.readme)
    return 1 if told["misses"] else 0


def _course(args) -> int:
    from hermes_nb import course, stamp

    if args.stamp:
        print("stamped:", ", ".join(stamp.stamp()) or "nothing, all is as pyproject.toml says")
        return 0
    return course.run(args.notebooks, args.out, args.in_place)


COMMANDS = {
    "doctor": _doctor, "run": _run, "merge": _merge, "evaluate": _evaluate, "course": _course, "audit": _audit,
    "bench": _bench, "estimate": _estimate,
}  # fmt: skip
