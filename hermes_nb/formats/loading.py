"""Rows of a known source, from a file or the hub: read as a stream, checked, every unusable one kept in the account.

Rows keep two more columns, `source` and `row`, which say where each came from. Lessons: 00_tour, 01_preference_data.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hermes_nb.errors import DataProblem
from hermes_nb.formats import as_published
from hermes_nb.formats.files import count_rows, raw_rows
from hermes_nb.formats.hub import Hub
from hermes_nb.formats.rows import Unusable, escaped
from hermes_nb.formats.stored import Store, key_of
from hermes_nb.formats.table import Reader, reader
from hermes_nb.runtime import find_file

TROUBLE = (DataProblem, LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Reading:
    """What came of reading: `rows` (a Dataset) and `dropped` (dicts of source, row, reason, detail, excerpt)."""

    rows: object
    dropped: list[dict]

    def line(self) -> str:
        """The count in one line."""
        why = ", ".join(f"{n} {reason}" for reason, n in Counter(d["reason"] for d in self.dropped).most_common())
        return f"{len(self.rows) + len(self.dropped)} rows in, {len(self.rows)} kept" + (
            f", dropped: {why}" * bool(why)
        )


def convert(source: str, row: dict, number: int, where: str, options: dict | None = None) -> dict:
    """Read one raw row. Raises Unusable (a DataProblem) naming file, row and column when it cannot be used."""
    try:
        return converted(reader(source), source, row, number, options or {})
    except Unusable as fault:
        raise Unusable(fault.reason, f"{where}, row {number}: not as {source} promises: {fault}") from fault


def converted(known: Reader, source: str, row: dict, number: int, options: dict) -> dict:
    """The row in one form, with `kind`, `source` and `row`. Raises Unusable."""
    missing = known.lacks(row)
    if missing:
        raise Unusable(
            "missing column",
            f"column {missing[0]!r} is missing ({source} has {', '.join(known.columns)}; "
            f"this row has {escaped(', '.join(map(str, row))[:200])})",
        )
    try:
        out = known.read(row, **options)
    except Unusable:
        raise
    except TROUBLE as error:  # a hostile row ends in a reason, never in a traceback
        raise Unusable("wrong type", f"{type(error).__name__}: {str(error)[:80]}") from error
    label = row.get(known.label) if known.label else None
    kind = escaped(label.split("-")[0]) if isinstance(label, str) else ""
    return {**out, "kind": kind, "source": source, "row": number}


def excerpt(row: dict, length: int = 60) -> str:
    """The beginning of each part of a raw or converted row, on one line."""
    parts = (
        f"{k}: {' '.join((v if isinstance(v, str) else repr(v))[: 4 * length].split())[:length]}"
        for k, v in row.items()
    )
    return escaped(" | ".join(parts))[: 8 * length]


class Stream:
    """Rows of one source, read once: batches pass by while they are written down. `done()` gives the Reading.

    Raises FileProblem or NetworkProblem for a source out of reach, DataProblem for a file that cannot be read.
    """

    def __init__(self, source: str, path=None, split: str = "train", *, numbers=None, variant=None, **options):
        known = as_published.reader(source, variant) if variant else reader(source)
        _check(source, known, options)
        self.source, self.numbers, self.options, self.dropped = source, numbers, options, []
        self.known, self.name = known, f"{variant}/{source}" if variant else source
        if path and split != "train":
            raise DataProblem(f"{source}: a local file has no splits; leave split={split!r} out.")
        self.file = find_file(path) if path else Hub(source, known, split)
        self.where = self.file.name
        drawn = None if numbers is None else key_of([int(n) for n in numbers])
        asked = [self.name, options, split if path is None else "", drawn]
        self.store = Store(self.file if path else None, asked)

    def _rows(self) -> Iterator[dict]:
        return raw_rows(self.file) if isinstance(self.file, Path) else self.file.rows()

    def _numbered(self) -> Iterator[tuple[int, dict | Unusable]]:
        """Every raw row with its number; one that the published script throws away is an Unusable."""
        numbered = enumerate(self._rows())
        return self.known.prepare(numbered) if self.known.prepare else numbered

    def raw(self) -> Iterator[tuple[int, dict | Unusable]]:
        """Number and raw row of all rows asked for. Raises DataProblem for a number that is not there."""
        if self.numbers is None:
            yield from self._numbered()
            return
        wanted = iter(sorted({*map(int, self.numbers)}))
        next_one, at = next(wanted, None), -1
        for number, row in self._numbered():
            if next_one is None:
                return
            if isinstance(row, Unusable):
                continue
            at += 1
            if at == next_one:
                yield number, row
                next_one = next(wanted, None)
        if next_one is not None:
            raise DataProblem(f"{self.where}: no row {next_one}; it has {at + 1}, counted from 0.")

    def count(self) -> int:
        """Raw rows in the whole source."""
        if self.known.prepare:
            return sum(not isinstance(row, Unusable) for _, row in self._numbered())
        return count_rows(self.file) if isinstance(self.file, Path) else self.file.count()

    def batches(self, size: int = 256) -> Iterator[list[dict]]:
        """Converted rows, `size` at a time; unusable ones go to `dropped` instead."""
        if self.store.ready:
            self.dropped = self.store.dropped()
            yield from self.store.batches(size)
            return
        batch, self.dropped = [], []
        with self.store.writing() as write:
            for number, row in self.raw():
                try:
                    if isinstance(row, Unusable):
                        raise row
                    batch.append(converted(self.known, self.source, row, number, self.options))
                except Unusable as fault:
                    self.dropped.append(
                        {"source": self.source, "row": number, "reason": fault.reason, "detail": fault.detail,
                         "excerpt": "" if isinstance(row, Unusable) else excerpt(row)}
                    )  # fmt: skip
                if len(batch) == size:
                    write(batch)
                    yield batch
                    batch = []
            if batch:
                write(batch)
                yield batch
            write.dropped = self.dropped

    def done(self, empty: bool = False) -> Reading:
        """Read what is left to read. Unless `empty` is allowed, raises DataProblem where no row can be used."""
        if not self.store.ready:
            for _ in self.batches():
                pass
        self.dropped = self.store.dropped()
        if not self.store.rows_written and not empty:
            if not self.dropped:
                raise DataProblem(f"{self.where}: no rows.")
            first = self.dropped[0]
            fault = Unusable(first["reason"], first["detail"])
            raise DataProblem(f"{self.where}, row {first['row']}: {fault}; no row of it can be used.")
        return Reading(self.store.dataset(self.known.makes, self.known.texts), self.dropped)


def _check(source: str, known: Reader, options: dict) -> None:
    """Raise DataProblem for an option, or a value of one, that the reader does not know."""
    for name, value in options.items():
        if value not in known.options.get(name, ()):
            may = "; ".join(f"{n}: {' or '.join(values)}" for n, values in known.options.items()) or "none"
            raise DataProblem(f"{source}: no option {name}={value!r}; it has {may}.")


def drawn(count: int, limit: int, seed: int) -> np.ndarray:
    """Numbers of `limit` rows out of `count`, drawn without replacement by `seed`, in rising order (at most all).

    Memory: the numbers, not the rows; so a stream of millions can be sampled in one pass.
    """
    return np.sort(np.random.default_rng(seed).permutation(count)[: max(0, limit)])


def read(source: str, path: str | Path | None = None, split: str = "train", **how) -> Reading:
    """Read a source whole: what `load` gives, and the rows that cannot be used, each with its reason.

    `how`: `numbers` (row numbers to take), `variant` (a published system's own reader, for lessons), and the reader's
    options, such as `against="random"` for `ultrafeedback`. Raises as `load` does.
    """
    return Stream(source, path, split, **how).done()


def load(source: str, path: str | Path | None = None, split: str = "train", limit: int | None = None, seed: int = 0,
         strict: bool = False, **how):  # fmt: skip
    """Load rows of `source` as a conversational `datasets.Dataset`.

    From the file `path` (JSONL, JSON, CSV, parquet; also looked up in `data_samples/`), else from the hub's `split`
    (`train`, `test` or one of the handbook's six). Pairs have `prompt`, `chosen`, `rejected`, conversations have
    `messages`; both have `kind` (what our own rows' ids begin with), `source` and `row` (counted from 0). `limit` draws
    that many raw rows, chosen and ordered by `seed` alone, without holding the rest; `how` as in `read`. Rows that
    cannot be used are left out with a warning that counts them by reason (`read` returns them); `strict` raises
    DataProblem for the first. Raises FileProblem or NetworkProblem for a source out of reach.
    """
    numbers = None if limit is None else drawn(Stream(source, path, split, **how).count(), limit, seed)
    found = read(source, path, split, numbers=numbers, **how)
    where = Path(path).name if path else source
    if found.dropped:
        first = found.dropped[0]
        if strict:
            raise Unusable(first["reason"], f"{where}, row {first['row']}: {first['detail']}")
        warnings.warn(f"{where}: {found.line()}; formats.read gives the dropped rows.", stacklevel=2)
    return found.rows if limit is None else found.rows.shuffle(seed=seed)
