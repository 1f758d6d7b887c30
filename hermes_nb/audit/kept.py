"""The outcome of an audit, and where the outcome of a long one is kept and found again. Lesson: 01_preference_data."""

import json
import shutil
import tempfile
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
        line = f"{self.report['rows']} rows in, {self.report['kept']} kept, {self.report['dropped']} dropped ({why})"
        return line + f"; warned: {said}" * bool(said)


def dropped_table(dropped: list[dict]):
    """Dropped rows as a Dataset with fixed columns, also when there are none."""
    import datasets
    import pyarrow as pa

    types = {name: pa.int64() if name == "row" else pa.string() for name in COLUMNS}
    return datasets.Dataset(pa.table({n: pa.array([d[n] for d in dropped], t) for n, t in types.items()}))


def rows_key(rows) -> str:
    """Digest of a Dataset's content, in its order."""
    import xxhash

    digest = xxhash.xxh3_128()
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def tokenizer_key(tokenizer) -> str:
    """Digest of a tokenizer: vocabulary, rules, chat template, stop token."""
    return formats.key_of(tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.eos_token)


def folder(*asked) -> Path:
    """Where an audit of these parts is kept; the code is one of them."""
    return cache_dir() / "audits" / formats.key_of(formats.code_key("audit", "formats", "templates"), *asked)


def write(path: Path, numbers, dropped: list[dict], report: dict) -> None:
    """Keep an outcome: `numbers` are the places of the kept rows."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=path.parent))
    np.save(work / "kept.npy", np.asarray(numbers, dtype=np.int64))
    (work / "dropped.json").write_text(json.dumps(dropped), encoding="utf-8")
    (work / "report.json").write_text(json.dumps(report), encoding="utf-8")
    shutil.rmtree(path, ignore_errors=True)
    work.replace(path)


def read(path: Path):
    """Numbers of kept rows, dropped rows and report, as `write` left them; None where there are none."""
    import numpy as np

    if not (path / "report.json").is_file():
        return None
    told = {name: json.loads((path / f"{name}.json").read_text(encoding="utf-8")) for name in ("dropped", "report")}
    return np.load(path / "kept.npy"), told["dropped"], told["report"]
