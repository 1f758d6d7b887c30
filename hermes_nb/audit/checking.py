"""Every row accounted for: in = kept + dropped, each with a reason, in one pass over rows that need not fit in memory.

TRL cuts answers at `max_length` (the stop token falls off, and the model learns not to stop) and drops rows whose
prompt fills it, without a word. Here such rows are dropped beforehand, by name. Lesson: 01_preference_data.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hermes_nb import formats
from hermes_nb.audit import kept, strings, texts
from hermes_nb.audit.duplicates import Benchmark, Seen, near_warnings
from hermes_nb.audit.kept import Audit
from hermes_nb.audit.reasons import REASONS
from hermes_nb.audit.report import Counts
from hermes_nb.audit.tokens import Encoder, Tokens, all_cores, too_long
from hermes_nb.errors import DataProblem

BATCH = 256
REMEMBERED = 0.5  # seconds from which on an outcome is kept and found again
PARTS = ("prompt", "chosen", "rejected", "messages", "text")


def batches_of(rows) -> Iterator[list[dict]]:
    """Rows of a Dataset or of a `formats.Stream`, as lists of dicts."""
    if isinstance(rows, formats.Stream):
        yield from rows.batches(BATCH)
        return
    for table in rows.with_format("arrow").iter(batch_size=BATCH):
        yield table.to_pylist()


def _text_checks(conversations: bool, encoder: Encoder, benchmark) -> Callable[[dict], texts.Fault]:
    """What is checked of a row before its tokens; the first fault counts."""
    control = texts.control_pattern(encoder.tokenizer)
    by_role = texts.conversation_fault if conversations else texts.pair_fault
    # without a trained stop token no conversation can be used; a pair's answer is scored whatever the marks say
    always = encoder.fault if conversations or (encoder.fault or ("",))[0] == "BOS doubled" else None

    def fault(row: dict) -> texts.Fault:
        if strings.is_rendered(row):
            return strings.text_fault(row) or (benchmark and benchmark.fault(row))
        return by_role(row, control) or always or (benchmark and benchmark.fault(row))

    return fault


def _checked(rows, encoder: Encoder, fault_of) -> Iterator[tuple[dict, texts.Fault, Tokens | None]]:
    """Each row with its fault, if any, and its tokens; one batch is encoded while the next is rendered."""
    with all_cores(), ThreadPoolExecutor(1) as pool:
        waiting, first = None, True
        for batch in batches_of(rows):
            faults = [fault_of(row) for row in batch]
            plain = [not fault and not strings.is_rendered(row) for row, fault in zip(batch, faults, strict=True)]
            if first and any(plain):
                encoder.prove([row for row, good in zip(batch, plain, strict=True) if good])
                first = False
            drawn = [encoder.texts(row) if good else None for row, good in zip(batch, plain, strict=True)]
            flat = [text for one in drawn if one for text in one[0][:-1]]
            job = (batch, faults, drawn, pool.submit(encoder.encode, flat))
            if waiting:
                yield from _joined(encoder, *waiting)
            waiting = job
        if waiting:
            yield from _joined(encoder, *waiting)


def _joined(encoder: Encoder, batch, faults, drawn, future):
    """Rows, faults and tokens of one batch, its encodings taken apart again."""
    encodings = iter(future.result())
    for row, fault, one in zip(batch, faults, drawn, strict=True):
        found = None
        if one is not None:
            mine = [next(encodings) for _ in one[0][:-1]]
            found = encoder.tokens(one[0], mine, one[1])
        elif not fault:
            found = strings.tokens(encoder.tokenizer, row)
        yield row, fault or found.fault, found


def _strict(row: dict, fault: tuple[str, str]) -> DataProblem:
    reason, detail = fault
    why = REASONS.get(reason) or formats.UNUSABLE[reason]
    return DataProblem(
        f"{row['source']}, row {row['row']}: {reason} ({why}{'; ' + detail if detail else ''}). "
        f"Mend it, or audit without strict to drop such rows."
    )


def _pass(rows, conversations: bool, tokenizer, max_length: int, strict: bool, held_out, benchmark, progress: bool):
    """One pass: numbers of the kept rows, dropped rows, counts."""
    from tqdm.auto import tqdm

    encoder, seen = Encoder(tokenizer), Seen(held_out)
    fault_of = _text_checks(conversations, encoder, benchmark)
    counts, dropped, numbers = Counts(conversations, max_length), [], []
    total = None if isinstance(rows, formats.Stream) else len(rows)
    bar = tqdm(_checked(rows, encoder, fault_of), desc="audit", unit=" rows", disable=not progress, total=total)
    for at, (row, fault, found) in enumerate(bar):
        # duplicates last and in order: a copy of a row that is dropped is no copy
        fault = fault or too_long(found, max_length) or seen.fault(row)
        if not fault:
            numbers.append(at)
            counts.add(row, found)
        elif strict:
            raise _strict(row, fault)
        else:
            dropped.append((row["source"], row["row"], *fault, formats.excerpt(_flat(row))))
    return numbers, dropped, counts


def _flat(row: dict) -> dict:
    """The parts of a row as one text each, for an excerpt."""
    parts = {name: row[name] for name in PARTS if name in row}
    return {k: v if isinstance(v, str) else " / ".join(str(m["content"]) for m in v) for k, v in parts.items()}


def _audit(rows, conversations, tokenizer, max_length, strict, held_out, benchmark, near, progress) -> Audit:
    """One audit, or the outcome of the same one before."""
    source = rows.rows if isinstance(rows, formats.Reading) else rows
    _columns(source, conversations)
    begun = time.perf_counter()
    bench = Benchmark(benchmark) if benchmark else None
    place = kept.place(rows, conversations, tokenizer, max_length, held_out, bench, near)
    known = kept.read(place) if place and not strict else None
    if known:
        numbers, dropped, report = known
        return Audit(_whole(source).select(numbers), dropped, report | {"from_cache": True})
    numbers, dropped, counts = _pass(source, conversations, tokenizer, max_length, strict, held_out, bench, progress)
    for one in rows.dropped if isinstance(rows, (formats.Reading, formats.Stream)) else ():
        if strict:
            raise _strict(one, (one["reason"], one["detail"]))
        dropped.append(tuple(one[name] for name in kept.COLUMNS))
    dropped.sort(key=lambda one: one[:2])
    good = _whole(source).select(numbers)
    seconds = {"rows": round(time.perf_counter() - begun, 3)}
    if near:
        begun_near = time.perf_counter()
        counts.warned += near_warnings(batches_of(good), held_out, bench.texts if bench else None)
        seconds["near duplicates"] = round(time.perf_counter() - begun_near, 3)
    table = kept.dropped_table(dropped)
    report = counts.report(len(numbers), dropped) | {"near_duplicates_looked_for": near, "seconds": seconds}
    if place and time.perf_counter() - begun >= REMEMBERED:
        kept.write(place, numbers, table, report)
    return Audit(good, table, report)


def _whole(source):
    """All rows as a Dataset."""
    return source.done(empty=True).rows if isinstance(source, formats.Stream) else source


def _columns(source, conversations: bool) -> None:
    """Raise DataProblem where a Dataset lacks what an audit looks at."""
    if isinstance(source, formats.Stream):
        return
    names = {*source.column_names}
    ways = [{"messages"}, {"text"}] if conversations else [{"prompt", "chosen", "rejected"}]
    lacks = min((sorted(way - names) for way in ways), key=len) + sorted({"source", "row"} - names)
    if lacks:
        raise DataProblem(
            f"these rows lack the column{'s' * (len(lacks) > 1)} {', '.join(lacks)}; formats.load makes them, "
            f"or add source and row (a name and a number) to your own."
        )


def pairs(rows, tokenizer, max_length: int = 1024, strict: bool = False, *, held_out=None, benchmark=None,
          near: bool = True, progress: bool = False) -> Audit:  # fmt: skip
    """Audit preference pairs (`prompt, chosen, rejected, source, row`) against the template of `tokenizer`.

    `rows` is a Dataset, a `formats.Reading` (its unusable rows are counted too) or a `formats.Stream` (read in the same
    pass, memory stays flat). Lengths are in tokens, prompt and longer answer together. `held_out` (a Dataset) and
    `benchmark` (a file) are what training must not hold; `near` adds the near-duplicate pass, timed apart. `strict`
    raises DataProblem at the first fault. The reasons are in `audit.REASONS`, the warnings in `audit.WARNINGS`. What
    took half a second is kept in the cache and found again by content.
    """
    return _audit(rows, False, tokenizer, max_length, strict, held_out, benchmark, near, progress)


def conversations(rows, tokenizer, max_length: int = 1024, strict: bool = False, *, held_out=None, benchmark=None,
                  near: bool = True, progress: bool = False) -> Audit:  # fmt: skip
    """Audit conversations (`messages, source, row`) against the template of `tokenizer`; everything as in `pairs`."""
    return _audit(rows, True, tokenizer, max_length, strict, held_out, benchmark, near, progress)
