"""The outcome of an audit, and where the outcome of a long one is kept and found again. Lesson: 01_preference_data."""

import json
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import formats
from hermes_nb.audit.reasons import SET_WARNINGS
from hermes_nb.runtime import cache_dir

COLUMNS = ("source", "row", "reason", "detail", "excerpt")


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit: `kept` rows and `dropped` ones as Datasets, `report` as counts.

    `dropped` has the columns source, row, reason, detail and excerpt.
    """

    kept: object
    dropped: object
    report: dict

    def plain(self) -> dict:
        """The report without what differs from one call to the next."""
        return {k: v for k, v in self.report.items() if k not in ("seconds", "from_cache")}

    def line(self) -> str:
        """The report in one line."""
        why = ", ".join(f"{n} {reason}" for reason, n in self.report["reasons"].items()) or "none dropped"
        warned = self.report["warnings"].items()
        said = ", ".join(name if name in SET_WARNINGS else f"{n} {name}" for name, n in warned)
        if not self.report["near_duplicates_looked_for"]:
            said = ", ".join([*filter(None, [said]), "near-duplicates not looked for"])
        line = f"{self.report['rows']} rows in, {self.report['kept']} kept, {self.report['dropped']} dropped ({why})"
        return line + f"; warned: {said}" * bool(said)


def dropped_table(dropped: list[tuple]):
    """Dropped rows as a Dataset with fixed columns, also when there are none."""
    import datasets
    import pyarrow as pa

    types = {name: pa.int64() if name == "row" else pa.string() for name in COLUMNS}
    columns = zip(*dropped, strict=True) if dropped else [[]] * len(COLUMNS)
    made = {n: pa.array(values, t) for (n, t), values in zip(types.items(), columns, strict=True)}
    return datasets.Dataset(pa.table(made))


def rows_key(rows) -> str:
    """Digest of a Dataset's content, its column names and its order."""
    import xxhash

    digest = xxhash.xxh3_128(repr(sorted(rows.features.items())).encode())
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(repr(batch.schema.names).encode())
            digest.update(batch.serialize())
    return digest.hexdigest()


def tokenizer_key(tokenizer) -> str:
    """Digest of a tokenizer: vocabulary, rules, chat template, stop token; not how it pads and truncates just now."""
    # the text begins with version, truncation and padding; parsing it would take longer than many an audit
    rules = tokenizer.backend_tokenizer.to_str().partition('"added_tokens"')[2]
    return formats.key_of(rules, tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token)


def place(rows, conversations: bool, tokenizer, max_length: int, held_out, benchmark, near: bool) -> Path | None:
    """Where the outcome of an audit of these parts is kept; the code is one of them. None for rows without a key."""
    if isinstance(rows, formats.Stream):
        key = rows.store.key
    elif isinstance(rows, formats.Reading):
        key = formats.key_of(rows_key(rows.rows), rows.dropped)
    else:
        key = rows_key(rows)
    if key is None:
        return None
    outside = [
        rows_key(held_out) if held_out is not None else "",
        benchmark and [benchmark.name, benchmark.texts],
        near,
    ]
    asked = [conversations, tokenizer_key(tokenizer), max_length, outside]
    code = formats.code_key("audit", "formats", "templates")
    return cache_dir() / "audits" / formats.key_of(code, key, asked)


def write(path: Path, numbers, dropped, report: dict) -> None:
    """Keep an outcome: `numbers` are the places of the kept rows, `dropped` a Dataset."""
    import numpy as np
    import pyarrow.parquet

    with formats.made_whole(path) as work:
        np.save(work / "kept.npy", np.asarray(numbers, dtype=np.int64))
        pyarrow.parquet.write_table(dropped.data.table, work / "dropped.parquet")
        (work / "report.json").write_text(json.dumps(report), encoding="utf-8")


def read(path: Path):
    """Numbers of kept rows, dropped rows and report, as `write` left them; None where there are none."""
    if not (path / "report.json").is_file():
        return None
    import datasets
    import numpy as np
    import pyarrow.parquet

    report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    dropped = datasets.Dataset(pyarrow.parquet.read_table(path / "dropped.parquet"))
    return np.load(path / "kept.npy"), dropped, report
