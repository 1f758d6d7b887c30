"""Converted rows on disk, found again by what they were made from; memory stays flat however many there are.

The key is the content of the file, what was asked of it, and the code that reads it. Lesson: 01_preference_data.
"""

import atexit
import contextlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import xxhash

from hermes_nb.runtime import cache_dir

SMALL = 4_000_000  # bytes; a smaller file is read anew each time, faster than it could be looked up
BATCH_CHARACTERS = 64_000_000  # that one batch on disk may hold


def file_key(path: Path) -> str:
    """Digest of a file's content (xxh3, fast; not against forgery)."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


@cache
def code_key(*rooms: str) -> str:
    """Digest of the source of these rooms, so that a mended reader is never answered by an old result."""
    package = Path(__file__).resolve().parent.parent
    digest = xxhash.xxh3_128()
    for room in rooms:
        for path in sorted([*package.glob(f"{room}/**/*"), *package.glob(f"{room}.py")]):
            if path.suffix in (".py", ".jinja"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(*parts) -> str:
    """One key of several parts (plain data)."""
    return xxhash.xxh3_128(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its place when the block ends, and vanishes when it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder.parent))
    try:
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Writer:
    """Writes batches of rows to one Arrow file, or keeps them where there is none; `dropped` is set at the end."""

    def __init__(self, path: Path | None):
        self.path, self.file, self.tables, self.rows, self.dropped = path, None, [], 0, []

    def __call__(self, rows: list[dict]) -> None:
        """Write a batch, cut where its text is too much for one Arrow array."""
        import pyarrow

        self.rows += len(rows)
        for part in _cut(rows):
            table = pyarrow.Table.from_pylist(part, schema=schema(part[0]))
            if self.path is None:
                self.tables.append(table)
                continue
            if self.file is None:
                self.file = pyarrow.ipc.new_stream(str(self.path), table.schema)
            self.file.write_table(table)

    def close(self) -> None:
        """End the file."""
        if self.file is not None:
            self.file.close()


def schema(row: dict):
    """Arrow schema of a converted row: lists of messages, texts, and the row's number."""
    import pyarrow as pa

    said = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    types = {list: said, str: pa.string(), int: pa.int64()}
    return pa.schema([(name, types[type(value)]) for name, value in row.items()])


def _cut(rows: list[dict]) -> Iterator[list[dict]]:
    """Parts of a batch whose texts together stay far below an Arrow array's 2 GB."""
    part, size = [], 0
    for row in rows:
        length = sum(_length(value) for value in row.values())
        if part and size + length > BATCH_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    if part:
        yield part


def _length(value) -> int:
    """Characters of a text, or of a list of messages."""
    if isinstance(value, list):
        return sum(len(m["content"]) for m in value)
    return len(value) if isinstance(value, str) else 0


class Store:
    """Where the rows of one stream lie: in the cache when they come from a large file, else in memory or aside."""

    def __init__(self, file: Path | None, asked: list):
        self.folder, self.key, self.rows_written, self._dropped, self._tables = None, None, 0, [], []
        self.from_hub = file is None
        if file is not None:
            self.key = key_of(file_key(file), code_key("formats"), asked)
        if file is not None and file.stat().st_size >= SMALL:
            self.folder = cache_dir() / "rows" / self.key
        self.ready = bool(self.folder) and (self.folder / "dropped.json").is_file()
        if self.ready:
            self._load()

    def _load(self) -> None:
        told = json.loads((self.folder / "dropped.json").read_text(encoding="utf-8"))
        self._dropped, self.rows_written = told["dropped"], told["rows"]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """A writer; what it wrote counts when the block ends without an error."""
        if self.from_hub:  # as large as it may be, and its content is known only afterwards
            self.folder = Path(tempfile.gettempdir()) / f"hermes_nb_{uuid.uuid4().hex}"
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        with made_whole(self.folder) if self.folder else contextlib.nullcontext() as work:
            with contextlib.closing(Writer(work / "rows.arrow" if work else None)) as writer:
                yield writer
            self._dropped, self.rows_written, self._tables = writer.dropped, writer.rows, writer.tables
            if work:
                told = {"rows": writer.rows, "dropped": writer.dropped}
                (work / "dropped.json").write_text(json.dumps(told), encoding="utf-8")
        self.ready = True

    def dropped(self) -> list[dict]:
        """The rows that could not be used."""
        return self._dropped

    def batches(self, size: int) -> Iterator[list[dict]]:
        """The rows again, `size` at a time, read from the file rather than mapped, so that memory stays flat."""
        import pyarrow as pa

        if self._tables or not self.rows_written:
            for table in self._tables:
                yield from (table.slice(at, size).to_pylist() for at in range(0, len(table), size))
            return
        with pa.OSFile(str(self.folder / "rows.arrow")) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                yield from (batch.slice(at, size).to_pylist() for at in range(0, len(batch), size))

    def dataset(self, makes: str = "pairs", texts: bool = False):
        """The rows as a `datasets.Dataset`, mapped from the file where there is one; the others shape an empty one."""
        import datasets
        import pyarrow as pa

        if not self.rows_written:
            pairs, one = ("prompt", "chosen", "rejected"), "text" if texts else "messages"
            parts = dict.fromkeys(pairs if makes == "pairs" else (one,), "" if texts else [])
            shape = parts | {"kind": "", "source": "", "row": 0}
            return datasets.Dataset(pa.Table.from_pylist([], schema=schema(shape)))
        if self._tables:
            return datasets.Dataset(pa.concat_tables(self._tables))
        return datasets.Dataset.from_file(str(self.folder / "rows.arrow"))
