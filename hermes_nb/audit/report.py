"""Counts over the rows that are kept: lengths, biases, languages, warnings. Lesson: 01_preference_data."""

from array import array
from collections import Counter, defaultdict

from hermes_nb.audit import bias, texts
from hermes_nb.audit.duplicates import answers
from hermes_nb.audit.kept import COLUMNS
from hermes_nb.audit.reasons import REASONS, SET_WARNINGS, WARNINGS
from hermes_nb.audit.tokens import Tokens, sides
from hermes_nb.formats import UNUSABLE, escaped

SHOWN = 500  # dropped, and warned, rows that the report names; `Audit.dropped` holds all
LANGUAGES = 200  # rows whose language is looked at
TELLS = 0.65  # accuracy of a rule without reading from which on it is said


class Counts:
    """What is gathered while rows pass by; a few numbers a row, and a sample of texts."""

    def __init__(self, conversations: bool, max_length: int):
        self.conversations, self.max_length = conversations, max_length
        self.lengths = defaultdict(lambda: array("i"))
        self.sources, self.warned, self.sample = Counter(), [], []

    def add(self, row: dict, found: Tokens) -> None:
        """Count one kept row."""
        self.sources[row["source"]] += 1
        self.lengths["prompt"].append(found.prompt)
        for name, n in zip(sides(found.answers), found.answers, strict=True):
            self.lengths[name].append(n)
        self.lengths["row"].append(found.prompt + max(found.answers))
        if not isinstance(row.get("prompt") or row.get("text"), str):
            warning = texts.warning(row)
            if warning:
                mark = {"source": row["source"], "row": row["row"]}
                self.warned.append(mark | {"warning": warning[0], "detail": warning[1]})
        if len(self.sample) < bias.SAMPLE:  # the first ones: what is looked at must not depend on chance
            self.sample.append(answers(row))

    def _tells(self) -> dict:
        """Rules that find chosen without reading; none for conversations."""
        if self.conversations:
            return {}
        lengths = list(zip(self.lengths["chosen"], self.lengths["rejected"], strict=True))
        return {"length_rule": bias.length_rule(lengths), "word_rule": bias.word_rule(self.sample)}

    def report(self, kept: int, dropped: list[tuple]) -> dict:
        """The whole report, as plain data; `dropped` are tuples of `COLUMNS`."""
        tells = self._tells()
        warnings = Counter(w["warning"] for w in self.warned)
        for name, rule in zip(SET_WARNINGS, ("length_rule", "word_rule"), strict=True):
            if tells and tells[rule]["n"] >= bias.FROM and tells[rule]["accuracy"] >= TELLS:
                warnings[name] = 1
        lost = Counter(source for source, *_ in dropped)
        return {
            "rows": kept + len(dropped), "kept": kept, "dropped": len(dropped), "max_length": self.max_length,
            "reasons": dict(Counter(reason for _, _, reason, *_ in dropped).most_common()),
            "warnings": dict(warnings.most_common()),
            "sources": {s: {"kept": self.sources[s], "dropped": lost[s]} for s in {**self.sources, **lost}},
            "lengths": {name: bias.quantiles(values) for name, values in self.lengths.items()},
            **tells,
            "languages": bias.languages([said[0] for said in self.sample[:LANGUAGES]]),
            "dropped_rows": [dict(zip(COLUMNS, one, strict=True)) for one in dropped[:SHOWN]],
            "warned_rows": self.warned[:SHOWN],
        }  # fmt: skip


def text(found, source: str = "") -> str:
    """An audit as lines for a terminal; control characters of data come out as escapes."""
    report = found.report
    lines = [f"{source}: {found.line()}" if source else found.line()]
    first = {}
    for row, reason, detail in zip(*(found.dropped[name] for name in ("row", "reason", "detail")), strict=True):
        first.setdefault(reason, f"row {row} {escaped(detail)}".rstrip())
    for name, n in report["reasons"].items():
        lines.append(f"  {n:6} {name}: {_why(name)}; first: {first[name]}")
    for name, n in report["warnings"].items():
        lines.append(f"  {n if name not in SET_WARNINGS else '':6} warned, {name}: {WARNINGS[name]}")
    for name, q in report["lengths"].items():
        lines.append(f"  {name:9} tokens: " + ", ".join(f"{k} {v}" for k, v in q.items()))
    if "length_rule" in report:
        shares = [f"by {name} {report[f'{name}_rule']['accuracy']:.0%}" for name in ("length", "word")]
        lines.append(f"  chosen found without reading: {', '.join(shares)} of {report['length_rule']['n']}")
    lines.append("  languages: " + ", ".join(f"{name} {n}" for name, n in report["languages"].items()))
    seconds = ", ".join(f"{name} {s:.2f} s" for name, s in report["seconds"].items())
    return "\n".join([*lines, f"  {seconds}{' (found again)' * report.get('from_cache', False)}"])


def _why(reason: str) -> str:
    return REASONS.get(reason) or UNUSABLE[reason]
