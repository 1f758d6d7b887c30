"""Run alone: python -m pytest tests/test_formats_files.py"""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hermes_nb import formats
from hermes_nb.errors import DataProblem
from hermes_nb.formats.files import count_rows

ROWS = [
    {"prompt": "Q", "completion": "A", "messages": [{"role": "user", "content": "Q"}]},
    {"prompt": "Где, \"где\"?\nZeile\u2028zwei", "completion": "là 👋🏽", "messages": []},
    {"prompt": " [1] is cited ", "completion": "{x", "messages": [{"role": "user", "content": ""}]},
]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def table(path: Path, delimiter: str, encoding: str = "utf-8") -> None:
    with open(path, "w", encoding=encoding, newline="") as file:
        out = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        out.writeheader()
        out.writerows(row | {"messages": json.dumps(row["messages"])} for row in ROWS)


def listed(path: Path) -> None:
    path.write_text("\n " + json.dumps(ROWS, indent=1), encoding="utf-8")


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(LINES.encode()))


def lines(path: Path) -> None:
    path.write_text(LINES, encoding="utf-8")


WRITERS = {
    "p.jsonl": lines, "p.JSONL": lines, "p.ndjson": lines, "p.v1.2.jsonl": lines, "lines.json": lines,
    "list.json": listed, "p.csv": lambda path: table(path, ","), "p.tsv": lambda path: table(path, "\t"),
    "p.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2),
    "p.jsonl.gz": packed, "p.JSON.GZ": packed,
    "p.csv.gz": lambda path: (table(path, ","), path.write_bytes(gzip.compress(path.read_bytes()))),
    "bom.jsonl": lambda path: path.write_text(LINES, encoding="utf-8-sig"),
    "bom.csv": lambda path: table(path, ",", "utf-8-sig"),
    "bom of a list.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8-sig"),
    "windows.jsonl": lambda path: path.write_bytes(LINES.replace("\n", "\r\n").encode()),
    "blank lines.jsonl": lambda path: path.write_text("\n" + LINES.replace("\n", "\n \n"), encoding="utf-8"),
    "no last newline.jsonl": lambda path: path.write_text(LINES.rstrip("\n"), encoding="utf-8"),
}  # fmt: skip


def plain(row: dict) -> dict:
    """A row; a CSV cell holds a list as JSON text, which may be read with the file or by the reader."""
    said = row["messages"]
    return row | {"messages": json.loads(said) if isinstance(said, str) else said}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_come_out_of_every_kind_of_file(name, tmp_path):
    """A set is handed on in many forms; a mark of byte order, a line of its own or a lost blank would change rows."""
    WRITERS[name](tmp_path / name)
    assert [plain(row) for row in formats.raw_rows(tmp_path / name)] == ROWS
    assert count_rows(tmp_path / name) == 3


@pytest.mark.parametrize("name", ["p.jsonl", "list.json", "p.csv", "p.tsv", "p.parquet", "p.jsonl.gz"])
def test_the_rows_of_every_kind_of_file_load_the_same(name, tmp_path):
    """What is trained must not depend on how it was stored."""
    WRITERS[name](tmp_path / name)
    found = formats.load("prompt_completion", tmp_path / name)
    assert [m[1]["content"] for m in found["messages"]] == ["A", "là 👋🏽", "{x"]
    assert list(found["row"]) == [0, 1, 2]
    lists = formats.read("message_lists", tmp_path / name).rows
    assert [m[0] for m in lists["messages"]] == [ROWS[0]["messages"][0], ROWS[2]["messages"][0]]
    assert len(formats.load("prompt_completion", tmp_path / name, limit=2)) == 2


@pytest.mark.parametrize("name", ["p.txt", "p", "p.gz", "p.jsonl.zip", "p.arrow", ".jsonl"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name, tmp_path):
    """Guessed wrongly, a file of another kind gives an error that names none."""
    (tmp_path / name).write_text(LINES, encoding="utf-8")
    for reading in (lambda: list(formats.raw_rows(tmp_path / name)), lambda: count_rows(tmp_path / name)):
        with pytest.raises(DataProblem, match=r"files of rows end in .jsonl, .*\.parquet"):
            reading()


GOOD = b'{"prompt": "Q", "completion": "A"}\n'
HEAD = b"prompt,completion\n"
DAMAGED = {
    "not json.jsonl": (GOOD + b"nothing\n", "line 2: not JSON"),
    "cut.jsonl": (GOOD + b"\n" + GOOD[:20], "line 3: not JSON"),
    "list line.jsonl": (GOOD + b"[1, 2]\n", "line 2: a row is a JSON object; this is a list"),
    "string line.jsonl": (b'"Q"\n', "line 1: a row is a JSON object; this is a str"),
    "latin.jsonl": (GOOD + b'{"prompt": "\xe9"}\n', "line 2: not UTF-8"),
    "utf-16.jsonl": (GOOD.decode().encode("utf-16"), "line 1: not UTF-8"),
    "nested.jsonl": (GOOD + b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 2: not readable"),
    "digits.jsonl": (GOOD + b'{"prompt": ' + b"9" * 5000 + b"}\n", "line 2: not readable"),
    "nested.json": (b"[" * 100_000, "nested.json: not readable"),
    "items.json": (b"[" + GOOD + b", 3]", "items.json, row 1: a row is a JSON object"),
    "cut.json": (b"[" + GOOD, "cut.json: not JSON"),
    "latin.json": (b'[{"prompt": "\xe9"}]', "latin.json: not UTF-8"),
    "too many cells.csv": (HEAD + b"Q,A\nQ,A,more\n", "line 3: not as many cells"),
    "too few cells.csv": (HEAD + b"Q,A\nQ\n", "line 3: not as many cells"),
    "open quote.csv": (HEAD + b'Q,A\n"Q,A\nQ,A\n', "line 4: not as many cells"),
    "latin at its line.csv": (HEAD + b"Q,A\nQ,A\nQ,\xe9\n", "line 4: not"),
    "empty.parquet": (b"", "empty.parquet: not readable as parquet"),
    "words.parquet": (GOOD, "words.parquet: not readable as parquet"),
    "words.jsonl.gz": (GOOD, "words.jsonl.gz.*not"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 50)[:40], "cut.jsonl.gz.*not"),
    "damaged.jsonl.gz": (gzip.compress(GOOD * 50)[:20] + b"\xff" * 30, "damaged.jsonl.gz.*not"),
    "cut.csv.gz": (gzip.compress(HEAD + b"Q,A\n" * 50)[:30], "cut.csv.gz.*not"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_its_line(name, tmp_path):
    """An error deep in a library, without file or line, cannot be mended; skipped, rows would leave silently."""
    content, words = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataProblem, match=words):
        formats.read("prompt_completion", tmp_path / name)


@pytest.mark.parametrize("name", ["words.parquet", "words.jsonl.gz", "cut.jsonl.gz", "cut.csv.gz", "too few cells.csv"])
def test_a_damaged_file_is_named_where_its_rows_are_counted_first(name, tmp_path):
    """`limit` counts before it reads: the same damage must not end in another library's traceback there."""
    (tmp_path / name).write_bytes(DAMAGED[name][0])
    with pytest.raises(DataProblem, match=name.replace(".", r"\.")):
        formats.load("prompt_completion", tmp_path / name, limit=1)


def test_a_parquet_file_damaged_inside_is_named(tmp_path):
    """Its footer is whole, so it opens; the page in the middle is not."""
    pq.write_table(pa.table({"prompt": ["Q" * 50] * 900, "completion": ["A"] * 900}), tmp_path / "p.parquet")
    content = bytearray((tmp_path / "p.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(DataProblem, match="p.parquet: not readable as parquet"):
        formats.read("prompt_completion", tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("completion", pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())),
        ("at", pa.array([2**62], pa.timestamp("us"))),
    ],
    ids=["text that is not UTF-8", "a date beyond Python's"],
)
def test_parquet_values_that_python_cannot_hold_are_named(column, values, tmp_path):
    """Arrow keeps any bytes and any date until they are looked at; Python's own error then names no file."""
    pq.write_table(pa.table({"prompt": ["Q"], "completion": ["A"]} | {column: values}), tmp_path / "p.parquet")
    with pytest.raises(DataProblem, match="p.parquet: not readable"):
        formats.read("prompt_completion", tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.jsonl", b""), ("p.jsonl", b"\n \n"), ("p.json", b""), ("p.json", b"[]"), ("p.csv", b""), ("p.csv", HEAD),
     ("p.jsonl.gz", gzip.compress(b""))],
)  # fmt: skip
def test_a_file_without_rows_is_said(name, content, tmp_path):
    """Training on nothing ends later, with an error about something else."""
    (tmp_path / name).write_bytes(content)
    assert count_rows(tmp_path / name) == 0
    for reading in (
        lambda: formats.read("prompt_completion", tmp_path / name),
        lambda: formats.detect(tmp_path / name),
    ):
        with pytest.raises(DataProblem, match=f"{name}: no rows"):
            reading()


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.jsonl.gz"])
def test_rows_are_read_one_after_the_other(name, tmp_path):
    """A file larger than memory is read like a small one: the first row comes before the damage behind it."""
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content
    content += b"Q,A\n" if "csv" in name else b"damage\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rows = formats.raw_rows(tmp_path / name)
    assert [plain(next(rows)) for _ in ROWS] == ROWS
    with pytest.raises(DataProblem, match="line"):
        next(rows)


def test_a_csv_answer_that_is_json_is_still_text(tmp_path):
    """Asked for JSON, a model answers in JSON: read as an object, the row would be dropped as of the wrong type."""
    (tmp_path / "p.csv").write_text('prompt,completion\nGive me JSON.,"{""a"": [1]}"\n"[3, 1]",sorted: 1 3\n')
    found = formats.read("prompt_completion", tmp_path / "p.csv")
    assert [[m["content"] for m in row] for row in found.rows["messages"]] == [
        ["Give me JSON.", '{"a": [1]}'], ["[3, 1]", "sorted: 1 3"],
    ]  # fmt: skip
    assert found.dropped == []
