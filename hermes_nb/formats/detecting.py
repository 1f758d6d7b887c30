"""Which source is this file of? By its columns, then by trying its first rows. Lesson: 01_preference_data."""

import itertools
from pathlib import Path

from hermes_nb.errors import DataProblem
from hermes_nb.formats.files import raw_rows
from hermes_nb.formats.loading import converted
from hermes_nb.formats.rows import Unusable, escaped
from hermes_nb.formats.table import READERS, Reader
from hermes_nb.runtime import find_file

TRIED = 20  # first rows that are read for certainty
# names of readers that read the same file in another way; a file is known by the plain one
SECOND = ("pku_saferlhf_safer", "pku_saferlhf_safe")


def detect(path: str | Path) -> str:
    """Name the source whose schema a file of rows (JSONL, JSON, CSV, parquet) has.

    Raises DataProblem that says which source came nearest and what is missing, or why its rows cannot be read as such.
    """
    file = find_file(path)
    first = list(itertools.islice(raw_rows(file), TRIED))
    if not first:
        raise DataProblem(f"{file.name}: no rows; a source is known by the columns of its first rows.")
    known = {name: one for name, one in READERS.items() if name not in SECOND}
    # one broken row does not make another schema: what most rows have counts, and the likest come first
    fits = [name for name, one in known.items() if 2 * sum(not one.lacks(row) for row in first) >= len(first)]
    fits.sort(key=lambda name: -sum(_likeness(known[name], row) for row in first))
    shares = {name: sum(_reads(known[name], row) for row in first) for name in fits}
    best = max(shares.values(), default=0)
    if best:
        return next(name for name in fits if 2 * shares[name] >= best)
    if fits:
        why = _why(known[fits[0]], next(row for row in first if not known[fits[0]].lacks(row)))
        raise DataProblem(
            f"{file.name}: the columns are those of {fits[0]}, but its first rows do not read as such: {why}."
        )
    name, typical = max(((n, row) for row in first for n in known), key=lambda one: _likeness(known[one[0]], one[1]))
    have = escaped(", ".join(map(str, typical)))
    if not _likeness(known[name], typical):
        raise DataProblem(f"{file.name}: columns {have} fit no known source; none has any of them.")
    raise DataProblem(
        f"{file.name}: columns {have} fit no known source; {name} comes nearest "
        f"and misses {', '.join(known[name].lacks(typical))}."
    )


def _likeness(known: Reader, row: dict) -> float:
    """Share of all columns, of a source and of a row together, that both have; needed ones count in full."""
    have, best = {*row}, 0.0
    for columns in known.schemas:
        need, may = {*columns}, {*known.more}
        best = max(best, (len(need & have) + 0.5 * len((may - need) & have)) / len(need | have))
    return best


def _reads(known: Reader, row: dict) -> bool:
    return not _why(known, row, only=("missing column", "wrong type", "no dialogue", "unknown role", "no message"))


def _why(known: Reader, row: dict, only: tuple = ()) -> str:
    """Why a row cannot be read as of this schema; empty where it can, or is merely of no use."""
    try:
        converted(known, "", row, 0, {})
    except Unusable as fault:
        return "" if only and fault.reason not in only else str(fault)
    return ""
