"""Rows of a known source, from a file or the hub, checked and brought to one form.

Rows keep two more columns, `source` and `row`, which say where each came from. Lessons: 00_tour, 01_preference_data.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from hermes_nb.errors import DataProblem, NetworkProblem
from hermes_nb.formats.readers import READERS, Reader, reader
from hermes_nb.runtime import find_file, token


def raw_rows(path: Path) -> Iterator[dict]:
    """Rows of a JSONL file. Raises DataProblem naming file and line where one is not a JSON object."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataProblem(f"{path.name}, line {number}: not UTF-8 text; save the file as such.") from error
            except json.JSONDecodeError as error:
                raise DataProblem(f"{path.name}, line {number}: not JSON ({error.msg}); mend or remove it.") from error
            if not isinstance(row, dict):
                raise DataProblem(
                    f"{path.name}, line {number}: a row is a JSON object; this is a {type(row).__name__}."
                )
            yield row


def detect(path: str | Path) -> str:
    """Name the source whose columns the first row of a JSONL file has.

    Raises DataProblem that says which source came nearest and which columns are missing.
    """
    file = find_file(path)
    first = next(raw_rows(file), None)
    if first is None:
        raise DataProblem(f"{file.name}: no rows; a source is known by the columns of its first row.")
    name = max(READERS, key=lambda n: _likeness(READERS[n].columns, first))
    missing = [c for c in READERS[name].columns if c not in first]
    if missing:
        raise DataProblem(
            f"{file.name}: columns {', '.join(first)} fit no known source; {name} comes nearest "
            f"and misses {', '.join(missing)}."
        )
    return name


def _likeness(columns, row) -> float:
    """Share of all columns, of a source and of a row together, that both have; one schema may lie within another."""
    return len({*columns} & {*row}) / len({*columns} | {*row})


def _hub_rows(known: Reader, split: str, limit: int | None) -> Iterator[dict]:
    """Rows of a hub data set, streamed."""
    import datasets

    name = dict(known.hub_splits).get(split, split)
    try:
        stream = datasets.load_dataset(known.hub, split=name, streaming=True, token=token())
        yield from (stream if limit is None else stream.take(limit))
    except (OSError, ConnectionError, ValueError) as error:
        raise NetworkProblem(
            f"{known.hub} ({name}) could not be read from the hub ({type(error).__name__}); check the network, "
            f"or give a local file of that schema as path."
        ) from error


def convert(source: str, row: dict, number: int, where: str) -> dict:
    """Read one raw row; DataProblem names file, row and column when the schema does not hold."""
    known = reader(source)
    missing = [c for c in known.columns if c not in row]
    if missing:
        raise DataProblem(
            f"{where}, row {number}: column {missing[0]!r} is missing ({source} has {', '.join(known.columns)}; "
            f"this row has {', '.join(row)})."
        )
    try:
        out = known.read(row)
        for message in (m for part in out.values() for m in part):
            if not isinstance(message["content"], str) or not isinstance(message["role"], str):
                raise TypeError("a text column holds " + type(message["content"]).__name__)
            message["content"].encode()  # a lone surrogate survives JSON, but no tokenizer and no file
    except (DataProblem, LookupError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise DataProblem(f"{where}, row {number}: not as {source} promises ({error}); mend or remove it.") from error
    return {**out, "kind": str(row.get(known.label) or "").split("-")[0], "source": source, "row": number}


def load(source: str, path: str | Path | None = None, split: str = "train", limit: int | None = None, seed: int = 0):
    """Load rows of `source` as a conversational `datasets.Dataset`.

    From the JSONL file `path` (also looked up in `data_samples/`), else from the hub's `split`. Pairs have `prompt`,
    `chosen`, `rejected`, conversations have `messages`; both have `kind` (what our own rows' ids begin with), `source`
    and `row` (counted from 0). `limit` keeps that many rows, drawn by `seed`: the order of rows is a function of it.
    Raises DataProblem for a row that is not of that schema, FileProblem or NetworkProblem for a source out of reach.
    """
    import datasets

    known = reader(source)
    where = Path(path).name if path else known.hub
    raw = raw_rows(find_file(path)) if path else _hub_rows(known, split, None if limit is None else 10 * limit)
    rows = datasets.Dataset.from_list([convert(source, row, i, where) for i, row in enumerate(raw)])
    if not len(rows):
        raise DataProblem(f"{where}: no rows.")
    return rows if limit is None else rows.shuffle(seed=seed).select(range(min(limit, len(rows))))


def mixture(sources, seed: int = 0):
    """Load and concatenate the sources of a recipe (`recipes.Source`), in an order that depends on `seed` alone."""
    import datasets

    parts = [load(s.source, s.path, s.split, s.limit, seed) for s in sources]
    return datasets.concatenate_datasets(parts).shuffle(seed=seed)
