"""Which held-out pairs of a run to look at, and in what order: plain numbers for `plots.explorer`. Lesson: 03_dpo."""

from hermes_nb.errors import DataProblem
from hermes_nb.history import Looks

PARTS = "prompt", "chosen", "rejected"
ORDERS = "worst", "best", "most changed", "by number"


def at(looks: Looks, step: int) -> int:
    """The newest look of a run at or before `step`; its first one where there is none."""
    return max((s for s in looks.steps if s <= step), default=looks.steps[0])


def shared(runs: dict[str, Looks]) -> list[int]:
    """Numbers of the pairs that all runs looked at with the same texts."""
    every = [{p["pair"]: [p[part] for part in PARTS] for p in looks.pairs} for looks in runs.values()]
    return [pair for pair, texts in every[0].items() if all(other.get(pair) == texts for other in every)]


def select(looks: Looks, kind: str | None = None, source: str | None = None, length=None, search: str = "") -> list:
    """Numbers of the pairs that fit every filter.

    `kind`, `source`: equal to it, "" for pairs without one, None for all; `length`: (least, most) tokens of the
    chosen answer; `search`: text in the prompt or an answer, upper or lower case.
    """
    least, most = length or (0, float("inf"))
    found = []
    for pair in looks.pairs:
        said = "\n".join(turn["content"] for part in PARTS for turn in pair[part]).casefold()
        same = kind in (None, str(pair.get("kind") or "")) and source in (None, str(pair.get("source") or ""))
        if same and least <= len(pair["pieces"][0]) <= most and search.strip().casefold() in said:
            found.append(pair["pair"])
    return found


def order(looks: Looks, step: int, how: str = "worst") -> list[int]:
    """Pairs seen at `step`, sorted: `worst` or `best` margin first, `most changed` since the look before, `by number`.

    Pairs whose margin is no number come last. Raises DataProblem for another order.
    """
    now = seen(looks, step).margin
    before = [s for s in looks.steps if s < at(looks, step)]
    moved = (now - seen(looks, before[-1]).margin).abs() if before else now.abs()
    keys = {"worst": now, "best": -now, "most changed": -moved, "by number": now * 0}
    if how not in keys:
        raise DataProblem(f"order: {how!r} is none of {', '.join(keys)}.")
    return [int(pair) for pair in keys[how].sort_values(kind="stable").index]


def seen(looks: Looks, step: int):
    """The table at the look that shows `step`, by pair number."""
    return looks.table[looks.table.step == at(looks, step)].set_index("pair").sort_index()
