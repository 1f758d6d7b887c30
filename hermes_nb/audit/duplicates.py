"""The same row twice, in the set, in what is held out, in a benchmark: exactly, or nearly. Lesson: 01_preference_data.

Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; datasketch).
"""

import re
from collections import Counter
from pathlib import Path

import xxhash

from hermes_nb import formats
from hermes_nb.errors import DataProblem
from hermes_nb.runtime import find_file

PERMUTATIONS = 64
NEAR = 0.6  # estimated share of shingles in common from which on two texts are said to be near
# share from which on the index offers candidates: lower among questions held out, of which there are few
LOOKED_AT, LOOKED_AT_OUTSIDE = 0.55, 0.4
WINDOW = 8  # words in a row that two texts must share to count as an overlap
FEWEST = 4  # words of a shorter question, all of which must be there
SINGLE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"  # scripts without blanks: each sign counts as a word
WORDS = re.compile(rf"[{SINGLE}]|[^\W{SINGLE}]+")


def fingerprint(text: str) -> int:
    """A number for texts that are the same but for case and blanks."""
    return xxhash.xxh3_64_intdigest(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"))


def joined(*fingerprints: int) -> int:
    """One number for several fingerprints in their order."""
    return xxhash.xxh3_64_intdigest(b"".join(f.to_bytes(8, "little") for f in fingerprints))


def exact(text: str) -> int:
    """A number for one text; only blanks around it make no difference."""
    return xxhash.xxh3_64_intdigest(text.strip().encode("utf-8", "surrogatepass"))


def question(row: dict) -> str:
    """What the user says in a row, all turns; a rendered conversation as a whole."""
    if "text" in row:
        return row["text"]
    asked = row.get("messages") or row["prompt"]
    return asked if isinstance(asked, str) else "\n".join(m["content"] for m in asked if m["role"] == "user")


def answers(row: dict) -> tuple[str, ...]:
    """The answers of a row: chosen and rejected, or all that the assistant says."""
    if "messages" in row:
        return ("\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant"),)
    if "text" in row:
        return (row["text"],)
    return tuple(row[s] if isinstance(row[s], str) else row[s][0]["content"] for s in ("chosen", "rejected"))


def _asked(row: dict) -> list[str]:
    """All that makes the prompt of a row, or the whole conversation: roles and texts."""
    turns = row.get("messages") or row.get("prompt") or row["text"]
    return [turns] if isinstance(turns, str) else [part for m in turns for part in (m["role"], m["content"])]


class Seen:
    """Rows kept so far, to find exact duplicates among those that follow, and rows whose question is held out."""

    def __init__(self, held_out=None):
        self.rows = {}
        asked = (question(row) for row in held_out or ())
        self.held_out = {fingerprint(text) for text in asked if text.strip()}

    def fault(self, row: dict) -> tuple[str, str] | None:
        """Whether this row came before, came before the other way round, or is held out; else it is remembered."""
        if self.held_out and fingerprint(question(row)) in self.held_out:
            return "also held out", ""
        asked, said = [exact(part) for part in _asked(row)], [exact(text) for text in answers(row)]
        mine = joined(*asked, *said)
        if mine in self.rows:
            return "duplicate", f"of row {self.rows[mine]}"
        turned = joined(*asked, *said[::-1])
        if len(said) == 2 and turned in self.rows:
            return "contradiction", f"of row {self.rows[turned]}"
        self.rows[mine] = row["row"]
        return None


class Benchmark:
    """Questions of a benchmark file, found again in rows by any run of `WINDOW` words, short ones by all theirs."""

    def __init__(self, path):
        file = find_file(path)
        self.name, self.texts = Path(path).name, benchmark_texts(file)
        split = [words_of(text) for text in self.texts]
        self.windows = {window for words in split for window in windows(words, min(len(words), WINDOW))}
        self.lengths = sorted({min(len(words), WINDOW) for words in split if len(words) >= FEWEST})

    def fault(self, row: dict) -> tuple[str, str] | None:
        """Whether a row holds words of the benchmark."""
        for text in (question(row), *answers(row)):
            words = words_of(text)
            for length in self.lengths:
                found = next((w for w in windows(words, length) if w in self.windows), None)
                if found:
                    return "in the benchmark", f"{self.name}: {found}"
        return None


def words_of(text: str) -> list[str]:
    """Words of a text in lower case; signs of scripts without blanks one by one."""
    return WORDS.findall(text.casefold())


def windows(words: list[str], length: int):
    """Runs of `length` words; none of fewer than `FEWEST`, which say nothing."""
    if length >= FEWEST:
        yield from (" ".join(words[at : at + length]) for at in range(len(words) - length + 1))


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
            several = value if isinstance(value, list) else [value]
            found += [text for text in several if isinstance(text, str) and text.strip()]
    if not found:
        raise DataProblem(f"{file.name}: no questions found; a row has question, prompt, instruction or turns.")
    return found


def shingles(text: str) -> set[bytes]:
    """Pieces that two like texts share: four letters in a row of a short one, three words of a long one."""
    words = words_of(text)
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

    def __init__(self, looked_at: float = LOOKED_AT):
        from datasketch import MinHashLSH

        self.index, self.kept = MinHashLSH(threshold=looked_at, num_perm=PERMUTATIONS), []

    def find(self, minhash) -> tuple[str, float] | None:
        """The nearest text and the estimated share of common shingles; None below the threshold."""
        near = [(self.kept[at][1].jaccard(minhash), -at) for at in self.index.query(minhash)]
        share, at = max(near, default=(0.0, 0))
        return (self.kept[-at][0], share) if share >= NEAR else None

    def add(self, name: str, minhash) -> None:
        """Add a text under a name, which need not be its alone."""
        self.index.insert(len(self.kept), minhash, check_duplication=False)
        self.kept.append((name, minhash))


class Outside:
    """Questions that training must not hold, held out or a benchmark's, in which near ones are found.

    A frame that many questions share ("what is the difference between") makes two short ones alike, so what is left
    without their frequent words must be alike too.
    """

    def __init__(self, questions: list[str]):
        self.near, self.words = Near(LOOKED_AT_OUTSIDE), [{*words_of(text)} for text in questions]
        seen = Counter(word for words in self.words for word in words)
        self.frequent = {word for word, n in seen.items() if n > max(2, 0.05 * len(questions))}
        for at, minhash in enumerate(minhashes(questions)):
            self.near.add(str(at), minhash)

    def find(self, question: str, minhash) -> tuple[str, float] | None:
        """The nearest question's number and the estimated share of common shingles."""
        hit = self.near.find(minhash)
        if hit is None:
            return None
        mine, theirs = ({*words} - self.frequent for words in (words_of(question), self.words[int(hit[0])]))
        alike = len(mine & theirs) >= 0.5 * len(mine | theirs)
        return (f"number {hit[0]}", hit[1]) if alike else None


def near_warnings(batches, held_out=None, benchmark=None) -> list[dict]:
    """Warnings for near-duplicates: dicts of source, row, warning, detail; one a row at most for each kind.

    `batches` are lists of rows (kept ones); whole rows are compared inside the set, questions with `held_out` (rows)
    and `benchmark` (texts).
    """
    outside = {
        "near a held-out row": Outside([question(row) for row in held_out or ()]),
        "near the benchmark": Outside(benchmark or []),
    }
    outside = {name: questions for name, questions in outside.items() if questions.words}
    inside, found = Near(), []
    for rows in batches:
        wholes = minhashes(["\n".join((question(row), *answers(row))) for row in rows])
        asked = minhashes([question(row) for row in rows]) if outside else wholes
        for row, whole, ask in zip(rows, wholes, asked, strict=True):
            hits = {"near duplicate": inside.find(whole)}
            if not hits["near duplicate"]:
                inside.add(f"of {row['source']}, row {row['row']}", whole)
            hits |= {name: questions.find(question(row), ask) for name, questions in outside.items()}
            found += [
                {"source": row["source"], "row": row["row"], "warning": name, "detail": f"{hit[0]}, {hit[1]:.0%} alike"}
                for name, hit in hits.items() if hit
            ]  # fmt: skip
    return found
