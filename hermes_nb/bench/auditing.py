"""The data side measured: formatting and audit beside the bare tokenizer and a row-by-row map."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hermes_nb import audit, formats, models, runs, runtime, templates
from hermes_nb.errors import DataProblem, ResourceProblem

BARS = {
    "audit over bare tokenizer": ("at least", 0.6),
    "audit over row-by-row map": ("at least", 2.0),
    "second call, seconds": ("at most", 1.0),
    "memory growth, MB": ("at most", 300.0),
}
MAX_LENGTH = 1024
REFERENCE_ROWS = 600  # rows of the slow side


def write_rows(path: Path, count: int, sentences: int = 8) -> None:
    """Write `count` pairs of about 700 tokens (8 sentences a part), all different, made of the sample topics."""
    topics = list(formats.raw_rows(runtime.find_file("topics_train.jsonl")))
    said = [f"{topic['prose']} {topic['vague']}" for topic in topics]
    # part k of row i begins at another topic each time, and the number makes every row unique
    parts = (("question", 1, sentences // 4), ("chosen", 2, sentences // 3 + 1), ("rejected", 3, sentences // 3 + 1))
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            texts = {
                name: f"{i}: " + " ".join(said[(7 * i + 13 * j + k) % len(said)] for j in range(max(1, n)))
                for name, k, n in parts
            }
            file.write(json.dumps({"system": "", **texts}) + "\n")


def _bare(encode, texts: list[str]) -> float:
    """Seconds of the batched tokenizer alone, on prompt and answers, each once."""
    with audit.all_cores():
        begun = time.perf_counter()
        for at in range(0, len(texts), 768):
            encode(texts[at : at + 768], add_special_tokens=False)
        return time.perf_counter() - begun


def _row_by_row(tokenizer, rows) -> float:
    """Seconds of rendering and encoding prompt and both whole texts row by row, as a plain `map` does."""
    begun = time.perf_counter()
    rows.map(lambda row: {"ids": list(templates.pair_ids(tokenizer, row))}, load_from_cache_file=False)
    return time.perf_counter() - begun


def _audited(tokenizer, file: Path) -> tuple[float, float]:
    """Seconds of reading, formatting and auditing a file, anew and then found again."""
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        audit.pairs(formats.Stream("orca_dpo_pairs", file), tokenizer, MAX_LENGTH, near=False)
        seconds.append(time.perf_counter() - begun)
    return tuple(seconds)


def data(count: int = 6000, repeats: int = 3, memory: int = 0, base: str = "builtin", template: str = "chatml") -> dict:
    """Measure the data side: pairs/s of audit, bare tokenizer and row-by-row map, near-duplicates, second call, memory.

    `memory` is the larger of two row counts whose peak resident memory is compared (10,000 is the smaller; 0: not
    measured, it takes minutes). Returns plain data: `rates` in pairs/s, `ratios` as median, smallest and largest of
    the repeats, `misses` as the bars that do not hold.
    """
    tokenizer = models.tokenizer(base, template)
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        file = Path(folder) / "pairs.jsonl"
        write_rows(file, count)
        rows = formats.load("orca_dpo_pairs", file)
        texts = [m["content"] for row in rows for part in ("prompt", "chosen", "rejected") for m in row[part]]
        slow = rows.select(range(min(count, REFERENCE_ROWS)))
        rounds = []
        for _ in range(repeats):
            file.write_bytes(file.read_bytes() + b"\n")  # another content, so that nothing is found again
            first, second = _audited(tokenizer, file)
            mapped = len(slow) / _row_by_row(tokenizer, slow)
            inner = tokenizer.backend_tokenizer.encode_batch_fast  # without transformers' lists and masks
            bare = [count / _bare(encode, texts) for encode in (tokenizer, inner)]
            rounds.append((*bare, count / first, mapped, second))
        near = _near(rows)
    return _told(rounds, near, count, (memory, _growth(memory)) if memory else None)


@contextlib.contextmanager
def _cache_in(folder: str):
    """Keep what is made in `folder`, so that nothing is found again from an earlier measurement, and nothing stays."""
    before = os.environ.get("HERMES_CACHE")
    os.environ["HERMES_CACHE"] = folder
    try:
        yield
    finally:
        del os.environ["HERMES_CACHE"]
        if before is not None:
            os.environ["HERMES_CACHE"] = before


def _near(rows) -> float:
    """Pairs/s of the near-duplicate pass."""
    from hermes_nb.audit.duplicates import near_warnings

    few = rows.select(range(min(len(rows), 2000)))
    begun = time.perf_counter()
    near_warnings([few.to_list()])
    return len(few) / (time.perf_counter() - begun)


def _told(rounds: list[tuple], near: float, count: int, memory: tuple[int, float] | None) -> dict:
    """Rates, ratios with their spread, and the bars that were missed; `memory` is rows and growth in MB."""
    bare, inner, ours, mapped, second = (list(column) for column in zip(*rounds, strict=True))
    ratios = {
        "audit over bare tokenizer": [b / a for a, b in zip(bare, ours, strict=True)],
        "audit over row-by-row map": [b / a for a, b in zip(mapped, ours, strict=True)],
        "second call, seconds": second,
        "memory growth, MB": [memory[1]] if memory else [],
    }
    found = {k: {"median": statistics.median(v), "min": min(v), "max": max(v)} for k, v in ratios.items() if v}
    rates = {"bare tokenizer": bare, "its Rust core": inner, "audit": ours, "row-by-row map": mapped,
             "near-duplicates": [near]}  # fmt: skip
    return {
        "rows": count, "repeats": len(rounds), "rates": {k: statistics.median(v) for k, v in rates.items()},
        "ratios": found, "misses": [k for k, v in found.items() if not holds(k, v["median"])],
        "memory_rows": memory[0] if memory else 0,
        "machine": runtime.machine().chip, "cores": runtime.machine().cores, "versions": runs.versions(),
    }  # fmt: skip


def holds(name: str, value: float) -> bool:
    """Whether a measured value meets its bar."""
    word, bar = BARS[name]
    return value >= bar if word == "at least" else value <= bar


PEAK = """
import os, sys
from hermes_nb import audit, formats, models, runtime
runtime.quiet()
tokenizer = models.tokenizer("builtin", "chatml")
os.environ["HERMES_CACHE"] = sys.argv[2]
found = audit.pairs(formats.Stream("orca_dpo_pairs", sys.argv[1]), tokenizer, 1024, near=False)
# ru_maxrss would do elsewhere, but on Linux a child begins with its parent's peak
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(found.report["rows"], int(status["VmHWM"].split()[0]) / 1024)
"""


def _growth(large: int, small: int = 10_000) -> float:
    """Peak resident memory (MB) of auditing `large` rows, less that of auditing `small`, each in its own process.

    Raises ResourceProblem where the system does not tell a process's peak (other than Linux).
    """
    if not Path("/proc/self/status").exists():
        raise ResourceProblem("the peak memory of a process is read from /proc, which this system has not.")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (small, large):
            file = Path(folder) / f"{count}.jsonl"
            write_rows(file, count)
            out = subprocess.run(
                [sys.executable, "-c", PEAK, str(file), str(Path(folder) / "cache")],
                check=True,
                capture_output=True,
                text=True,
            )
            rows, peak = out.stdout.split()
            if int(rows) != count:
                raise DataProblem(f"{rows} of {count} rows were read; the memory of fewer rows says nothing.")
            peaks.append(float(peak))
            file.unlink()
    return peaks[1] - peaks[0]
