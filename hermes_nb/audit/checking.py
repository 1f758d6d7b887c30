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
REMEMBERED = 2000  # rows from which on an outcome is kept and found again


def batches_of(rows) -> Iterator[list[dict]]:
    """Rows of a Dataset or of a `formats.Stream`, as lists of dicts."""
    if isinstance(rows, formats.Stream):
        yield from rows.batches(BATCH)
        return
    for table in rows.with_format("arrow").iter(batch_size=BATCH):
        yield table.to_pylist()


def _text_checks(conversations: bool, tokenizer, seen: Seen, benchmark) -> Callable[[dict], texts.Fault]:
    """What is checked of a row before its tokens; the first fault counts."""
    control = texts.control_pattern(tokenizer)
    by_role = texts.conversation_fault if conversations else texts.pair_fault

    def fault(row: dict) -> texts.Fault:
        found = strings.text_fault(row) if strings.is_rendered(row) else by_role(row, control)
        return found or (benchmark and benchmark.fault(row)) or seen.fault(row)

    return fault


def _checked(rows, encoder: Encoder, fault_of) -> Iterator[tuple[dict, texts.Fault, Tokens | None]]:
    """Each row with its fault, if any, and its tokens; one batch is encoded while the next is rendered."""
    with all_cores(), ThreadPoolExecutor(1) as pool:
        waiting = None
        for batch in batches_of(rows):
            faults = [fault_of(row) for row in batch]
            plain = [not fault and not strings.is_rendered(row) for row, fault in zip(batch, faults, strict=True)]
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
        if fault:
            yield row, fault, None
        elif one is None:
            found = strings.tokens(encoder.tokenizer, row)
            yield row, found.fault, found
        else:
            mine = [next(encodings) for _ in one[0][:-1]]
            found = encoder.tokens(one[0], mine, one[2])
            encoder.prove(row, found)
            yield row, found.fault, found


def _strict(fault: tuple[str, str], row: dict, strict: bool) -> None:
    if strict:
        reason, detail = fault
        why = REASONS.get(reason) or formats.UNUSABLE[reason]
        raise DataProblem(
            f"{row['source']}, row {row['row']}: {reason} ({why}{'; ' + detail if detail else ''}). "
            f"Mend it, or audit without strict to drop such rows."
        )


def _pass(rows, conversations: bool, tokenizer, max_length: int, strict: bool, held_out, benchmark, progress: bool):
    """One pass: numbers of the kept rows, dropped rows, counts."""
    from tqdm.auto import tqdm

    seen = Seen(held_out)
    fault_of = _text_checks(conversations, tokenizer, seen, benchmark)
    counts, dropped, numbers = Counts(conversations, max_length), [], []
    bar = tqdm(desc="audit", unit=" rows", disable=not progress, total=None)
    for at, (row, fault, found) in enumerate(_checked(rows, Encoder(tokenizer), fault_of)):
        fault = fault or too_long(found, max_length)
        if fault:
            _strict(fault, row, strict)
            told = {k: v for k, v in row.items() if k not in ("source", "row", "kind")}
            dropped.append({"source": row["source"], "row": row["row"], "reason": fault[0], "detail": fault[1],
                            "excerpt": formats.excerpt(_flat(told))})  # fmt: skip
        else:
            numbers.append(at)
            counts.add(row, found)
        bar.update()
    bar.close()
    return numbers, dropped, counts


def _flat(row: dict) -> dict:
    """Lists of messages as one text each, for an excerpt."""
    return {k: v if isinstance(v, str) else " / ".join(m["content"] for m in v) for k, v in row.items()}


def _audit(rows, conversations, tokenizer, max_length, strict, held_out, benchmark, near, progress) -> Audit:
    """One audit, or the outcome of the same one before."""
    source = rows.rows if isinstance(rows, formats.Reading) else rows
    place = _place(source, conversations, tokenizer, max_length, held_out, benchmark, near)
    known = kept.read(place) if place and not strict else None
    if known:
        numbers, dropped, report = known
        return Audit(_whole(source).select(numbers), kept.dropped_table(dropped), report | {"from_cache": True})
    begun = time.perf_counter()
    bench = Benchmark(benchmark) if benchmark else None
    numbers, dropped, counts = _pass(source, conversations, tokenizer, max_length, strict, held_out, bench, progress)
    unusable = [] if source is rows and not isinstance(rows, formats.Stream) else rows.dropped
    for one in unusable[:1]:
        _strict((one["reason"], one["detail"]), one, strict)
    dropped = sorted([*unusable, *dropped], key=lambda d: (d["source"], d["row"]))
    good = _whole(source).select(numbers)
    seconds = {"rows": round(time.perf_counter() - begun, 3)}
    if near:
        begun = time.perf_counter()
        counts.warned += near_warnings(batches_of(good), held_out, bench.texts if bench else None)
        seconds["near duplicates"] = round(time.perf_counter() - begun, 3)
    report = counts.report(len(numbers), dropped) | {"seconds": seconds}
    if place:
        kept.write(place, numbers, dropped, report)
    return Audit(good, kept.dropped_table(dropped), report)


def _whole(source):
    """All rows as a Dataset."""
    return source.done().rows if isinstance(source, formats.Stream) else source


def _place(rows, *asked):
    """Where the outcome is kept: for a stored stream, or a long Dataset; None for a short one."""
    conversations, tokenizer, max_length, held_out, benchmark, near = asked
    if isinstance(rows, formats.Stream):
        key = rows.store.key
    else:
        key = kept.rows_key(rows) if len(rows) >= REMEMBERED else None
    if key is None:
        return None
    outside = [kept.rows_key(held_out) if held_out is not None else "", str(benchmark or ""), near]
    return kept.folder(key, conversations, kept.tokenizer_key(tokenizer), max_length, outside)


def pairs(rows, tokenizer, max_length: int = 1024, strict: bool = False, *, held_out=None, benchmark=None,
          near: bool = True, progress: bool = False) -> Audit:  # fmt: skip
    """Audit preference pairs (`prompt, chosen, rejected, source, row`) against the template of `tokenizer`.

    `rows` is a Dataset, a `formats.Reading` (its unusable rows are counted too) or a `formats.Stream` (read in the same
    pass, memory stays flat). Lengths are in tokens, prompt and longer answer together. `held_out` (a Dataset) and
    `benchmark` (a file) are what training must not hold; `near` adds the near-duplicate pass, timed apart. `strict`
    raises DataProblem at the first fault. The reasons are in `audit.REASONS`, the warnings in `audit.WARNINGS`.
    """
    return _audit(rows, False, tokenizer, max_length, strict, held_out, benchmark, near, progress)


def conversations(rows, tokenizer, max_length: int = 1024, strict: bool = False, *, held_out=None, benchmark=None,
                  near: bool = True, progress: bool = False) -> Audit:  # fmt: skip
    """Audit conversations (`messages, source, row`) against the template of `tokenizer`; everything as in `pairs`."""
    return _audit(rows, True, tokenizer, max_length, strict, held_out, benchmark, near, progress)
