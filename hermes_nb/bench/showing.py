"""Measurements as lines for a terminal and as tables for README."""

import re
from pathlib import Path

from hermes_nb.bench.auditing import BARS, holds
from hermes_nb.bench.merging import RANK
from hermes_nb.bench.training import holds as meets
from hermes_nb.errors import FileProblem
from hermes_nb.runs import read_json


def audit_text(told: dict) -> str:
    """The measurement as lines: rates, ratios against their bars."""
    chip = f"{told['cores']} cores of {told['machine']}"
    lines = [f"{told['rows']} pairs of about 700 tokens, {told['repeats']} repeats, {chip}"]
    lines += [f"  {name:18} {rate:8.0f} pairs/s" for name, rate in told["rates"].items()]
    for name, ratio in told["ratios"].items():
        word, bar = BARS[name]
        verdict = "holds" if holds(name, ratio["median"]) else "MISSED"
        spread = f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        lines.append(f"  {name:27} {ratio['median']:7.2f} {spread:18} {word} {bar:g}: {verdict}")
    return "\n".join(lines)


def audit_markdown(told: dict) -> str:
    """The measurement as a table for README, and a line that says on what."""
    rates = " · ".join(f"{name} {rate:,.0f}" for name, rate in told["rates"].items())
    head = "| measured | median | of the repeats | promised |\n|---|---|---|---|\n"
    rows = [
        f"| {name} | {r['median']:.2f} | {r['min']:.2f} to {r['max']:.2f} | {' '.join(map(str, BARS[name]))} |"
        for name, r in told["ratios"].items()
    ]
    foot = f"{told['rows']:,} pairs of about 700 tokens, {told['repeats']} repeats on {told['cores']} cores of "
    memory = f" Memory: {told['memory_rows']:,} rows against 10,000, once." if told["memory_rows"] else ""
    return head + "\n".join(rows) + f"\n\n{foot}{told['machine']}; pairs/s: {rates}.{memory}"


def training_text(told: dict) -> str:
    """The measurement of DPO as lines: every side, ratios against their bars."""
    setting = f"{told['pairs']} pairs a step, lengths of {told['lengths']}, {told['model']}"
    lines = [f"{setting}, {told['repeats']} repeats, {told['cores']} cores, {told['machine']}"]
    for name, side in told["sides"].items():
        share = f"{side['share_of_roofline']:5.0%} of the peak"
        lines.append(
            f"  {name:24} {side['pairs_s']:6.3f} pairs/s {side['tokens_s']:8.0f} tokens/s {side['gb']:5.1f} GB {share}"
        )
    bars = told["bars"]
    for name, ratio in told["ratios"].items():
        spread, verdict = f"({ratio['min']:.2f} to {ratio['max']:.2f})", ""
        if name in bars:
            holding = "holds" if meets(bars[name], ratio["median"]) else "MISSED"
            verdict = f"{bars[name][0]} {bars[name][1]:g}: {holding}"
        lines.append(f"  {name:42} {ratio['median']:5.2f} {spread:16} {verdict}")
    waste = told["padding"]
    lines.append(f"  TRL lays {waste['padding']:.0%} padding and {waste['prompts again']:.0%} prompts a second time")
    difference = told["largest difference, nats a token"]
    lines.append(f"  largest difference of a token's log-probability: {difference:.1e} nats")
    lines += [f"  {name} is left out: {why}" for name, why in told["left_out"].items()]
    return "\n".join(lines)


def training_markdown(*every: dict) -> str:
    """Measurements of DPO as a table for README, a column for each, and a line that says on what."""
    head = ["measured", *(told["lengths"] for told in every)]
    rows = [head, ["---"] * len(head)]
    for name in every[0]["ratios"]:
        cells = []
        for told in every:
            ratio, bar = told["ratios"][name], told["bars"].get(name)
            promised = f", promised {bar[0]} {bar[1]:g}" if bar else ""
            cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}{promised})")
        label = "peak memory over TRL's" if name == "memory" else f"pairs/s over TRL's: {name}"
        rows.append([label, *cells])
    for name, label in (("trl, defaults", "TRL's defaults, pairs/s"), ("packed, cached", "packed, cached, pairs/s")):
        rows.append([label, *(f"{told['sides'][name]['pairs_s']:.3f}" for told in every)])
    rows.append(["padding that TRL computes", *(f"{told['padding']['padding']:.0%}" for told in every)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    one = every[0]
    return (
        f"{table}\n\n{one['pairs']} pairs a step, {one['repeats']} repeats, all sides in turn, on {one['cores']} cores "
        f"of {one['machine']}; {one['model']} model in 4 bits, LoRA r = {one['rank']}."
    )


def merging_text(told: dict) -> str:
    """The measurement of the merge as lines: every side, ratios against their bars, what is left out and why."""
    setting = f"{_setting(told)}, bf16, random weights, {told['cores']} cores of {told['machine']}"
    lines = [f"LoRA r = {RANK} into {setting}"]
    for name, side in told["sides"].items():
        memory = f" {side['gb']:6.2f} GB" if "gb" in side else ""
        quantizing = f", {side['quantize']:.1f} s of it within the quantize call" if side.get("quantize") else ""
        lines.append(f"  {name:12} {side['seconds']:7.1f} s{memory}{quantizing}")
    for name, ratio in told["ratios"].items():
        verdict = ""
        if bar := told["bars"].get(name):
            verdict = f"{bar[0]} {bar[1]:g}: {'MISSED' if name in told['misses'] else 'holds'}"
        spread = f"({ratio['min']:.2f} to {ratio['max']:.2f})"
        lines.append(f"  {name:43} {ratio['median']:5.2f} {spread:16} {verdict}".rstrip())
    lines += [f"  {name} is left out: {why}" for name, why in told["left_out"].items()]
    return "\n".join(lines)


def merging_markdown(*every: dict) -> str:
    """Measurements of the merge as a table for README, a column for each size, and a line that says on what."""
    rows = [["measured", *map(_setting, every)]]
    rows.append(["---"] * len(rows[0]))
    for name in dict.fromkeys(name for told in every for name in told["ratios"]):
        rows.append([name, *(_ratio(told, name) for told in every)])
    for name in dict.fromkeys(name for told in every for name in told["sides"]):
        label = {"cp": "`cp` of the files", "peft": "PEFT's merge"}.get(name, f"onto the {name}")
        rows.append([label, *(_side(told["sides"].get(name)) for told in every)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    left_out = [f" {told['shape']} without {n.upper()}'s merge: {why}." for told in every
                for n, why in told["left_out"].items()]  # fmt: skip
    one = every[0]
    return (
        f"{table}\n\nLoRA r = {RANK} on all linear layers, random weights in bf16, every side a process of its own, "
        f"all sides in turn, on {one['cores']} cores of {one['machine']}. Memory is the peak above a bare "
        f"interpreter's.{''.join(left_out)}"
    )


def _setting(told: dict) -> str:
    """Name of the shape, its size in bf16, and how often it was measured."""
    often = f"{told['repeats']} repeats" if told["repeats"] > 1 else "once"
    return f"{told['shape']}, {2 * told['parameters'] / 1e9:.1f} GB, {often}"


def _ratio(told: dict, name: str) -> str:
    """One ratio with its spread, where there is one, and its bar."""
    if name not in told["ratios"]:
        return "left out"
    ratio, bar = told["ratios"][name], told["bars"].get(name)
    more = [f"{ratio['min']:.2f} to {ratio['max']:.2f}"] if told["repeats"] > 1 else []
    more += [f"promised {bar[0]} {bar[1]:g}"] if bar else []
    return f"{ratio['median']:.2f}" + (f" ({', '.join(more)})" if more else "")


def _side(side: dict | None) -> str:
    """Seconds, memory and the quantize call's seconds of one side."""
    if side is None:
        return "left out"
    memory = f", {side['gb']:.2f} GB" if "gb" in side else ""
    quantizing = f", {side['quantize']:.1f} s of it quantizing" if side.get("quantize") else ""
    return f"{side['seconds']:.1f} s{memory}{quantizing}"


TABLES = {"data": audit_markdown, "dpo": training_markdown, "merge": merging_markdown}


def write_readme(what: str, readme: Path) -> None:
    """Draw the table between README's two marks `bench WHAT` anew, from the files that the first of them names.

    Raises FileProblem where the marks or a file are missing.
    """
    text = readme.read_text(encoding="utf-8")
    found = re.search(rf"<!-- bench {what}: ([^>]+) -->\n(.*?)<!-- /bench {what} -->", text, re.S)
    if not found:
        raise FileProblem(f"{readme}: no place for the table; it stands between two comments named `bench {what}`.")
    table = TABLES[what](*(read_json(readme.parent / name) for name in found[1].split()))
    readme.write_text(text[: found.start(2)] + table + "\n" + text[found.end(2) :], encoding="utf-8")
