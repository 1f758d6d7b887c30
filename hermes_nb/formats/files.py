"""Raw rows of a file: JSONL, a JSON list, CSV or parquet, one row at a time. Lesson: 01_preference_data."""

import codecs
import contextlib
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from hermes_nb.errors import DataProblem

KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")


def _kind(path: Path) -> str:
    """Suffix that says how a file is written; `.gz` lies around it. Raises DataProblem for an unknown one."""
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if kind not in KINDS:
        raise DataProblem(f"{path.name}: files of rows end in {', '.join(KINDS)} (or .jsonl.gz); rename or convert it.")
    return kind


def _opened(path: Path):
    """The file, binary, unpacked on the way where it is a .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


@contextlib.contextmanager
def _named(path: Path):
    """Damage that another library finds, said with the file's name."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataProblem(f"{path.name}: not readable ({str(error).splitlines()[0]}); fetch it again.") from error


def raw_rows(path: Path) -> Iterator[dict]:
    """Rows of a file, one after the other; memory does not grow with its length (but for one JSON list).

    Raises DataProblem naming file and line where a row cannot be read.
    """
    kind = _kind(path)
    with _named(path):
        if kind == ".parquet":
            yield from _parquet(path)
        elif kind in (".csv", ".tsv"):
            yield from _csv(path, "\t" if kind == ".tsv" else ",")
        elif kind == ".json" and _is_list(path):
            yield from _listed(path)
        else:
            yield from _lines(path)


def count_rows(path: Path) -> int:
    """Number of rows, without reading them where the kind of file allows it. Raises DataProblem as `raw_rows` does."""
    with _named(path):
        return _count(path, _kind(path))


def _count(path: Path, kind: str) -> int:
    if kind == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).metadata.num_rows
    if kind in (".csv", ".tsv") or (kind == ".json" and _is_list(path)):
        return sum(1 for _ in raw_rows(path))
    with _opened(path) as file:
        return sum(1 for line in file if line.strip())


def _is_list(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _lines(path: Path) -> Iterator[dict]:
    """Rows of a JSONL file."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_json(line, f"{path.name}, line {number}"), f"{path.name}, line {number}")


def _json(line: bytes, where: str):
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataProblem(f"{where}: not UTF-8 text; save the file as such.") from error
    except json.JSONDecodeError as error:
        raise DataProblem(f"{where}: not JSON ({error.msg}); mend or remove it.") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number of thousands of digits
        raise DataProblem(f"{where}: not readable ({error}); mend or remove it.") from error


def _object(row, where: str) -> dict:
    if not isinstance(row, dict):
        raise DataProblem(f"{where}: a row is a JSON object; this is a {type(row).__name__}.")
    return row


def _listed(path: Path) -> Iterator[dict]:
    """Rows of a JSON file that is one list; it is held in memory as a whole."""
    with _opened(path) as file:
        rows = _json(file.read(), path.name)
    for number, row in enumerate(rows):
        yield _object(row, f"{path.name}, row {number}")


def _csv(path: Path, delimiter: str) -> Iterator[dict]:
    """Rows of a CSV file; all cells are text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with _opened(path) as file:
        lines = (line.decode("utf-8-sig" if at == 0 else "utf-8") for at, line in enumerate(file))
        table = csv.DictReader(lines, delimiter=delimiter)
        try:
            for row in table:
                if None in row or None in row.values():
                    raise DataProblem(
                        f"{path.name}, line {table.line_num}: not as many cells as the header; "
                        f"mend its quotes or remove it."
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataProblem(f"{path.name}, line {table.line_num + 1}: not readable as CSV ({error}).") from error


def _parquet(path: Path) -> Iterator[dict]:
    """Rows of a parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataProblem(f"{path.name}: not readable as parquet ({str(error).splitlines()[0]}).") from error
