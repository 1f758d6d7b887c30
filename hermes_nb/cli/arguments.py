"""The command line's words: every command, its arguments and their help."""

import argparse
from pathlib import Path

from hermes_nb import __version__
from hermes_nb.runtime import SCALES


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

    evaluate = commands.add_parser("evaluate", help="what the models of a finished run write, with 95 %% intervals")
    evaluate.add_argument("run", type=Path, help="run directory, such as runs/course")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--results", type=Path, metavar="FILE", help="also write FILE and the table in README.md")

    _add_models(commands)
    _add_course(commands)
    _add_data(commands)
    return top


def _add_models(commands) -> None:
    merge = commands.add_parser("merge", help="merge an adapter into its base, as a plain model folder")
    merge.add_argument("base", help="builtin, a model folder, or a hub name")
    merge.add_argument("adapter", type=Path, help="folder of the adapter")
    merge.add_argument("out", type=Path, help="folder to write; must not exist")
    merge.add_argument("--then", type=Path, action="append", default=[], metavar="ADAPTER",
                       help="another adapter, merged after it; may be repeated")  # fmt: skip
    merge.add_argument("--onto", default="auto", help="auto, dequantized or original")
    merge.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32")
    merge.add_argument("--max-shard-size", default="2GB")
    merge.add_argument("--revision", help="commit of a hub base")
    merge.add_argument("--template", help="chat template where the adapter has no tokenizer: chatml or zephyr")

    export = commands.add_parser("export", help="what would be published of a run, with its card; --push sends it")
    export.add_argument("run", type=Path, help="run directory, such as runs/course")
    export.add_argument("--what", choices=["merged", "adapter"], default="merged", help="adapter: the last one")
    export.add_argument("--to", type=Path, metavar="FOLDER", help="dry run into FOLDER (default RUN/export/WHAT, anew)")
    export.add_argument("--push", action="store_true", help="send it to the Hugging Face hub (needs a token)")
    export.add_argument("--repo", metavar="OWNER/NAME", help="default: yours, named after model and stage")
    export.add_argument("--public", action="store_true", help="a new repo is private unless this is given")


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
    bench.add_argument("what", choices=["data", "dpo", "merge"])
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    bench.add_argument("--readme", type=Path, metavar="FILE", help="also draw this README's table anew")
    bench.add_argument("--repeats", type=int, default=3)
    bench.add_argument("--rows", type=int, default=6000, help="data: rows that are audited")
    bench.add_argument("--memory", type=int, default=0, metavar="ROWS", help="data: compare memory with 10,000 rows")
    bench.add_argument("--lengths", default="ultrafeedback", help="dpo: ultrafeedback, hh, orca, or a file of pairs")
    bench.add_argument("--model", default="builtin", help="dpo: builtin, or mistral-7b-shape on a GPU")
    bench.add_argument("--against", default="trl", help="dpo: trl, or trl,unsloth")
    bench.add_argument("--pairs", type=int, default=4, help="dpo: pairs a step")
    bench.add_argument("--size", choices=["1b", "7b"], default="1b", help="merge: parameters of the model")
    bench.add_argument("--checkpointing", action="store_true", help="dpo: gradient checkpointing on our side too")
