"""A report as text for a terminal, as Markdown for README, as rows for a notebook. Lesson: 05_evaluate."""

from pathlib import Path

from hermes_nb import runs


def text(report: dict) -> str:
    """The report as a table for a terminal: each figure with its 95 % interval."""
    columns = ("card", "padded", "stops", "tokens")
    lines = [f"{'model':8} {'answers':12}" + "".join(f"{c:>20}" for c in columns)]
    for name, scores in report.items():
        for kind in (k for k in ("sampled", "greedy") if k in scores):
            cells = "".join(f"{_cell(scores[kind][c], c == 'tokens'):>20}" for c in columns)
            lines.append(f"{name:8} {kind + ' n=' + str(scores[kind]['card']['n']):12}{cells}")
        held = scores["held_out"]
        parts = [
            f"{k} {_cell(held[k], False)}" for k in ("logp_accuracy", "accuracy", "margin", "sft_loss") if k in held
        ]
        lines.append(f"{name:8} held-out     " + ", ".join(parts))
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """The report's rates as a Markdown table: sampled answers at temperature 1, with 95 % intervals."""
    lines = ["| model | cards | padded | ends by itself | tokens | n |", "|---|---|---|---|---|---|"]
    for name, scores in report["metrics"].items():
        sampled = scores["sampled"]
        shares = [
            f"{v['value']:.0%} ({v['low']:.0%} to {v['high']:.0%})"
            for v in map(sampled.get, ("card", "padded", "stops"))
        ]
        lines.append(f"| {name} | {' | '.join(shares)} | {sampled['tokens']['value']:.0f} | {sampled['card']['n']} |")
    return "\n".join([*lines, "", report["note"]])


def _cell(figure: dict, plain: bool) -> str:
    unit = "{:.1f}" if plain else "{:.2f}"
    return " ".join([unit.format(figure["value"]), f"[{unit.format(figure['low'])}, {unit.format(figure['high'])}]"])


def report(run) -> dict:
    """The evidence of a run directory, `reports/evaluate.json`: model name to scores with 95 % intervals.

    Raises FileProblem when the evaluate stage has not been run.
    """
    return runs.read_json(Path(run) / "reports" / "evaluate.json")["metrics"]


def figures(rates: dict, means: dict | None = None) -> list[dict]:
    """Rates, and then means, by name (each `{value, low, high, n}`) as table rows: `what, value, 95 % interval, n`.

    Rates are written in per cent, means with two decimals.
    """
    rows = []
    for named, unit in ((rates, "{:.0%}"), (means or {}, "{:.2f}")):
        for name, found in named.items():
            value, low, high = (unit.format(found[k]) for k in ("value", "low", "high"))
            rows.append({"what": name, "value": value, "95 % interval": f"{low} to {high}", "n": found["n"]})
    return rows
