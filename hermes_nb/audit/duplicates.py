"""The same row twice, in the set, in what is held out, in a benchmark: exactly, or nearly. Lesson: 01_preference_data.

Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; datasketch).
"""

import re
from pathlib import Path

import xxhash

from hermes_nb import formats
from hermes_nb.errors import DataProblem
from hermes_nb.runtime import find_file

PERMUTATIONS = 64
NEAR = 0.6  # estimated share of shingles in common from which on two texts are said to be near
LOOKED_AT = 0.5  # share from which on the index offers candidates; lower than NEAR, so that few are missed
WINDOW = 8  # words in a row that two texts must share to count as an overlap
WORDS = re.compile(r"\w+")


def fingerprint(text: str) -> int:
    """A number for texts that are the same but for case and blanks."""
    return xxhash.xxh3_64_intdigest(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"))


def joined(*fingerprints: int) -> int:
    """One number for several fingerprints in their order."""
    return xxhash.xxh3_64_intdigest(b"".join(f.to_bytes(8, "little") for f in fingerprints))


def question(row: dict) -> str:
    """What the user says in a row, all turns."""
    if "messages" in row or not isinstance(row.get("prompt"), str):
        asked = row.get("messages") or row.get("prompt") or []
        return "\n".join(m["content"] for m in asked if m["role"] == "user")
    return row["prompt"]


def told(row: dict) -> str:
    """What stands before the last question besides the user's own words: system turn, earlier answers of a pair."""
    if not isinstance(row.get("prompt"), list):
        return ""
    return "\n".join(m["content"] for m in row["prompt"] if m["role"] != "user")


def answers(row: dict) -> tuple[str, ...]:
    """The answers of a row: chosen and rejected, or all that the assistant says."""
    if "messages" in row:
        return ("\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant"),)
    if "chosen" not in row:
        return (row["text"],)
    return tuple(row[s] if isinstance(row[s], str) else row[s][0]["content"] for s in ("chosen", "rejected"))


class Seen:
    """Exact duplicates among the rows that pass by, and rows whose question is held out."""

    def __init__(self, held_out=None):
        self.rows, self.held_out = {}, set()
        for row in held_out if held_out is not None else ():
            self.held_out.add(fingerprint(question(row)))

    def fault(self, row: dict) -> tuple[str, str] | None:
        """Whether this row came before, came before the other way round, or is held out."""
        asked, said = fingerprint(question(row)), [fingerprint(text) for text in answers(row)]
        if asked in self.held_out:
            return "also held out", ""
        context = fingerprint(told(row))
        mine, turned = joined(context, asked, *said), joined(context, asked, *said[::-1])
        if mine in self.rows:
            return "duplicate", f"of row {self.rows[mine]}"
        if len(said) == 2 and turned in self.rows:
            return "contradiction", f"of row {self.rows[turned]}"
        self.rows[mine] = row["row"]
        return None


class Benchmark:
    """Questions of a benchmark file, found again in rows by any run of `WINDOW` words, or as a whole when shorter."""

    def __init__(self, path):
        file = find_file(path)
        self.name, self.texts = Path(path).name, benchmark_texts(file)
        self.windows = {w for text in self.texts for w in windows(text)}

    def fault(self, row: dict) -> tuple[str, str] | None:
        """Whether a row holds words of the benchmark."""
        for text in (question(row), *answers(row)):
            found = next((w for w in windows(text) if w in self.windows), None)
            if found:
                return "in the benchmark", f"{self.name}: {found}"
        return None


def windows(text: str):
    """Runs of `WINDOW` words of a text in lower case; the whole text where it is shorter (at least three words)."""
    words = WORDS.findall(text.casefold())
    if len(words) < WINDOW:
        if len(words) > 2:
            yield " ".join(words)
        return
    for at in range(len(words) - WINDOW + 1):
        yield " ".join(words[at : at + WINDOW])


def benchmark_texts(file: Path) -> list[str]:
    """Questions of a benchmark file: texts under `question`, `prompt`, `turns` and the like, or a text file's lines.

    Raises DataProblem where no row has any of these.
    """
    if file.suffix in (".txt", ".text"):
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = []
    for row in formats.raw_rows(file):
        for name in ("question", "prompt", "instruction", "turns", "input", "text", "goal", "problem"):
            value = row.get(name)
            found += [value] if isinstance(value, str) else [t for t in value or () if isinstance(t, str)]
    if not found:
        raise DataProblem(f"{file.name}: no questions found; a row has question, prompt, instruction or turns.")
    return found


def shingles(text: str) -> set[bytes]:
    """Pieces that two like texts share: four letters in a row of a short one, three words of a long one."""
    words = WORDS.findall(text.casefold())
    if len(words) < 40:
        joined = " ".join(words)
        return {joined[i : i + 4].encode("utf-8", "replace") for i in range(max(1, len(joined) - 3))}
    return {" ".join(words[i : i + 3]).encode("utf-8", "replace") for i in range(len(words) - 2)}


def _hash(piece: bytes) -> int:
    return xxhash.xxh32_intdigest(piece)


def minhashes(texts: list[str]) -> list:
    """One MinHash a text."""
    from datasketch import MinHash

    return MinHash.bulk([shingles(text) for text in texts], num_perm=PERMUTATIONS, hashfunc=_hash)


class Near:
    """An index of texts in which near ones are found; `add` and `find` take MinHashes."""

    def __init__(self):
        from datasketch import MinHashLSH

        self.index, self.kept = MinHashLSH(threshold=LOOKED_AT, num_perm=PERMUTATIONS), {}

    def find(self, minhash) -> tuple[str, float] | None:
        """The nearest text and the estimated share of common shingles; None below the threshold."""
        near = [(self.kept[key].jaccard(minhash), key) for key in self.index.query(minhash)]
        share, key = max(near, default=(0.0, ""))
        return (key, share) if share >= NEAR else None

    def add(self, key: str, minhash) -> None:
        """Add a text under a key."""
        self.index.insert(key, minhash, check_duplication=False)
        self.kept[key] = minhash


def near_warnings(batches, held_out=None, benchmark=None) -> list[dict]:
    """Warnings for near-duplicates: dicts of source, row, warning, detail; one a row at most for each kind.

    `batches` are lists of rows (kept ones); whole rows are compared inside the set, questions with `held_out` (rows)
    and `benchmark` (texts).
    """
    outside = {
        "near a held-out row": _indexed([question(row) for row in held_out or ()]),
        "near the benchmark": _indexed(benchmark or []),
    }
    inside, asks = Near(), any(near.kept for near in outside.values())
    found = []
    for rows in batches:
        wholes = minhashes(["\n".join((question(row), *answers(row))) for row in rows])
        asked = minhashes([question(row) for row in rows]) if asks else wholes
        for row, whole, ask in zip(rows, wholes, asked, strict=True):
            hits = {"near duplicate": inside.find(whole)}
            if not hits["near duplicate"]:
                inside.add(f"{row['source']} {row['row']}", whole)
            hits |= {name: near.find(ask) for name, near in outside.items() if near.kept}
            found += [
                {"source": row["source"], "row": row["row"], "warning": name, "detail": f"{hit[0]}, {hit[1]:.0%} alike"}
                for name, hit in hits.items() if hit
            ]  # fmt: skip
    return found


def _indexed(texts: list[str]) -> Near:
    """An index of texts under their numbers."""
    near = Near()
    for at, minhash in enumerate(minhashes(texts)):
        near.add(f"number {at}", minhash)
    return near
