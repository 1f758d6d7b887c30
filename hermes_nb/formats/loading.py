"""Rows of a known source, from a file or the hub: read as a stream, checked, every unusable one kept in the account.

Rows keep two more columns, `source` and `row`, which say where each came from. Lessons: 00_tour, 01_preference_data.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes_nb.errors import DataProblem
from hermes_nb.formats import as_published
from hermes_nb.formats.files import count_rows, raw_rows
from hermes_nb.formats.hub import Hub
from hermes_nb.formats.rows import Unusable
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


def escaped(words: str) -> str:
    """Text that every file can hold: lone surrogates and NULs as escapes."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def excerpt(row: dict, length: int = 160) -> str:
    """The beginning of what a raw or converted row says, on one line."""
    words = " | ".join(f"{k}: {v}" if isinstance(v, str) else f"{k}: {v!r}"[: 2 * length] for k, v in row.items())
    return " ".join(escaped(words).split())[:length]


class Stream:
    """Rows of one source, read once: batches pass by while they are written down. `done()` gives the Reading.

    Raises FileProblem or NetworkProblem for a source out of reach, DataProblem for a file that cannot be read.
    """

    def __init__(self, source: str, path=None, split: str = "train", *, numbers=None, variant=None, **options):
        known = as_published.reader(source, variant) if variant else reader(source)
        _check(source, known, options)
        self.source, self.numbers, self.options, self.dropped = source, numbers, options, []
        self.known, self.name = known, f"{variant}/{source}" if variant else source
        self.file = find_file(path) if path else Hub(source, known, split)
        self.where = self.file.name
        drawn = None if numbers is None else key_of([int(n) for n in numbers])
        asked = [self.name, options, split if path is None else "", drawn]
        self.store = Store(self.file if path else None, asked)

    def _rows(self) -> Iterator[dict]:
        return raw_rows(self.file) if isinstance(self.file, Path) else self.file.rows()

    def raw(self) -> Iterator[tuple[int, dict]]:
        """Number and raw row of all rows asked for."""
        numbered = self._prepared(enumerate(self._rows()))
        if self.numbers is None:
            yield from numbered
            return
        wanted = iter(sorted({*self.numbers}))
        next_one = next(wanted, None)
        for at, one in enumerate(numbered):
            if next_one is None:
                return
            if at == next_one:
                yield one
                next_one = next(wanted, None)

    def _prepared(self, numbered: Iterator) -> Iterator[tuple[int, dict]]:
        return self.known.prepare(numbered) if self.known.prepare else numbered

    def count(self) -> int:
        """Rows in the whole source."""
        if self.known.prepare:
            return sum(1 for _ in self._prepared(enumerate(self._rows())))
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
                    batch.append(converted(self.known, self.source, row, number, self.options))
                except Unusable as fault:
                    self.dropped.append(
                        {"source": self.source, "row": number, "reason": fault.reason, "detail": fault.detail,
                         "excerpt": excerpt(row)}
                    )  # fmt: skip
                if len(batch) == size:
                    write(batch)
                    yield batch
                    batch = []
            if batch:
                write(batch)
                yield batch
            write.dropped = self.dropped

    def done(self) -> Reading:
        """Read what is left to read. Raises DataProblem where no row can be used, with the first row's reason."""
        if not self.store.ready:
            for _ in self.batches():
                pass
        self.dropped = self.store.dropped()
        if not self.store.rows_written:
            if not self.dropped:
                raise DataProblem(f"{self.where}: no rows.")
            first = self.dropped[0]
            fault = Unusable(first["reason"], first["detail"])
            raise DataProblem(f"{self.where}, row {first['row']}: {fault}; no row of it can be used.")
        return Reading(self.store.dataset(), self.dropped)


def _check(source: str, known: Reader, options: dict) -> None:
    """Raise DataProblem for an option, or a value of one, that the reader does not know."""
    for name, value in options.items():
        if value not in known.options.get(name, ()):
            may = "; ".join(f"{n}: {' or '.join(values)}" for n, values in known.options.items()) or "none"
            raise DataProblem(f"{source}: no option {name}={value!r}; it has {may}.")


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
    `messages`; both have `kind` (what our own rows' ids begin with), `source` and `row` (counted from 0). `limit` keeps
    that many rows, drawn and ordered by `seed` alone, without holding the rest; `how` as in `read`. Rows that cannot be
    used are left out with a warning that counts them by reason (`read` returns them); `strict` raises DataProblem for
    the first. Raises FileProblem or NetworkProblem for a source out of reach.
    """
    from hermes_nb.formats.mixtures import drawn

    numbers = None if limit is None else drawn(Stream(source, path, split, **how).count(), limit, seed)
    found = read(source, path, split, numbers=numbers, **how)
    where = Path(path).name if path else source
    if found.dropped:
        first = found.dropped[0]
        if strict:
            raise Unusable(first["reason"], f"{where}, row {first['row']}: {first['detail']}")
        warnings.warn(f"{where}: {found.line()}; formats.read gives the dropped rows.", stacklevel=2)
    return found.rows if limit is None else found.rows.shuffle(seed=seed)
