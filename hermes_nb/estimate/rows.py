"""How many rows a recipe's sources have, and how long they are, without fetching anything. Lesson: 01_preference_data.

Local files are counted, and a sample of them is measured with the built-in tokenizer. Sets on the hub have their
published sizes; their lengths are those of real rows that were measured before, in data_samples/lengths.json.
"""

import json
import random
from dataclasses import dataclass

from hermes_nb.errors import DataProblem, RecipeProblem
from hermes_nb.recipes import Source
from hermes_nb.runtime import samples_dir

SAMPLE = 256  # rows measured of a stage
# rows by set and split, as the sets' cards say (UltraChat and PKU-SafeRLHF: about)
SIZES = {
    "Intel/orca_dpo_pairs": {"train": 12_859},
    "stingning/ultrachat": {"train": 1_400_000},
    "HuggingFaceH4/ultrachat_200k": {"train_sft": 207_865, "test_sft": 23_110, "train_gen": 256_032,
                                     "test_gen": 28_304},
    "openbmb/UltraFeedback": {"train": 63_967},
    "HuggingFaceH4/ultrafeedback_binarized": {"train_prefs": 61_135, "test_prefs": 2_000},
    "argilla/ultrafeedback-binarized-preferences": {"train": 63_619},
    "Anthropic/hh-rlhf": {"train": 160_800, "test": 8_552},
    "PKU-Alignment/PKU-SafeRLHF": {"train": 83_400},
}  # fmt: skip
# whose measured lengths stand for a set; UltraFeedback's for all others
STANDS_FOR = {
    "Intel/orca_dpo_pairs": "orca", "Anthropic/hh-rlhf": "hh", "yitingxie/rlhf-reward-datasets": "hh",
    "PKU-Alignment/PKU-SafeRLHF": "hh",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Rows of one stage: how many, lengths of a sample in tokens, and in words where both come from.

    A length is (prompt, chosen, rejected) of a pair, (rest, answers) of a conversation.
    """

    count: int
    lengths: list[tuple[int, ...]]
    notes: list[str]


def lengths(kind: str) -> list[tuple[int, int, int]]:
    """Measured (prompt, chosen, rejected) tokens of up to 128 real pairs: `ultrafeedback`, `hh` or `orca`.

    Raises RecipeProblem for another kind.
    """
    told = json.loads((samples_dir() / "lengths.json").read_text(encoding="utf-8"))
    if kind not in told["real_rows"]:
        raise RecipeProblem(f"no measured lengths of {kind!r}; there are {', '.join(told['real_rows'])}.")
    return [tuple(one) for one in told[kind]]


def of(parts: tuple[Source, ...], makes: str, seed: int = 0) -> Rows:
    """The rows that a stage takes of its sources, `makes` being `pairs` or `conversations`.

    Raises DataProblem or FileProblem as reading does, RecipeProblem for a hub set whose size is not known here.
    """
    from hermes_nb.formats.mixtures import sizes

    found = [_local(part, seed) if part.path else _hub(part, makes) for part in parts]
    taken = sizes(parts, [one.count for one in found])
    total = max(1, sum(taken))
    mixed = [n for one, k in zip(found, taken, strict=True) for n in _spread(one.lengths, round(SAMPLE * k / total))]
    random.Random(seed).shuffle(mixed)
    return Rows(sum(taken), mixed, list(dict.fromkeys(note for one in found for note in one.notes)))


def _spread(values: list, count: int) -> list:
    """`count` of the values, evenly spread over them; each comes again when there are fewer."""
    return [values[k * len(values) // count] for k in range(count)]


def _local(part: Source, seed: int) -> Rows:
    """Rows of a file: counted, and a sample drawn by `seed` measured."""
    from hermes_nb import formats, models, runtime
    from hermes_nb.formats.mixtures import stream

    runtime.quiet()
    tokenizer = models.tokenizer("builtin", "chatml")
    count = stream(part).count()
    drawn = stream(part, formats.drawn(count, SAMPLE, seed)).done().rows
    found = [n for n in (_measure(tokenizer, row) for row in drawn) if n]
    if not found:
        raise DataProblem(f"{part.path}: no row of it can be measured; audit it first.")
    return Rows(count, found, [f"{part.path}: {count:,} rows, {len(found)} measured with the built-in tokenizer"])


def _measure(tokenizer, row: dict) -> tuple[int, ...]:
    """Lengths of one row in tokens; empty for one that the audit would drop."""
    from hermes_nb import templates

    try:
        if "messages" in row:
            ids, answers = templates.conversation_ids(tokenizer, row["messages"])
            return len(ids) - sum(answers), sum(answers)
        if isinstance(row["prompt"], str):  # rendered texts, as published scripts made them
            return tuple(len(tokenizer(row[k])["input_ids"]) for k in ("prompt", "chosen", "rejected"))
        return tuple(map(len, templates.pair_ids(tokenizer, row)))
    except DataProblem:
        return ()


def _hub(part: Source, makes: str) -> Rows:
    """Rows of a hub set: its published size, and the lengths of the measured set that comes nearest."""
    from hermes_nb import formats

    known = formats.reader(part.source)
    if known.hub is None:
        raise RecipeProblem(f"{part.source}: not a set of the hub; give a local file of that schema as path.")
    split = formats.hub_split(known, part.split)
    count = SIZES.get(known.hub, {}).get(split, part.limit)
    if count is None:
        raise RecipeProblem(f"{known.hub} ({split}): its number of rows is not known here; set limit on that source.")
    kind = STANDS_FOR.get(known.hub, "ultrafeedback")
    note = f"{known.hub}: {count:,} rows as published; lengths of real {kind} rows, built-in tokenizer"
    if makes == "pairs":
        return Rows(count, lengths(kind), [note])
    one = [(prompt, chosen) for prompt, chosen, _ in lengths(kind)]
    return Rows(count, one, [f"{note}, one question and answer each: longer dialogues take more"])
