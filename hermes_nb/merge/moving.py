"""What an adapter adds to each weight of the base, a few rows at a time.

LoRA: https://arxiv.org/abs/2106.09685, section 4.1. DoRA: https://arxiv.org/abs/2402.09353, Eq. 5. Lesson: 04_merge.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from safetensors import safe_open

from hermes_nb.errors import FileProblem
from hermes_nb.merge import stored, sums
from hermes_nb.merge.changes import Change, changes
from hermes_nb.merge.skeleton import Skeleton, skeleton


def moving(
    base: Path | str, adapter: Path | str, since: Path | str | None = None
) -> Iterator[tuple[str, Callable[[], Iterator], bool]]:
    """(module name, its parts, whether the adapter brings it as a whole) of each weight that `adapter` changes.

    The parts are a function: it yields (rows of the base's weight, what the adapter adds to them), both in fp32. With
    `since` they are what it adds to what that adapter has added already. Raises what `changes` raises, and FileProblem
    when the base's files lack a weight.
    """
    bones, table = skeleton(base, quantizing=False), stored.table(base)
    later, earlier = _by_weight(adapter, base, bones), _by_weight(since, base, bones) if since else {}
    for weight in sorted(later, key=_order):
        place = weight if weight in table else bones.tied.get(weight, weight)
        if place not in table:
            raise FileProblem(
                f"{base}: holds no {weight}, which the adapter changes; base and adapter must be one model."
            )
        parts = partial(_parts, place, table[place], later[weight], earlier.get(weight, []))
        yield weight.removesuffix(".weight"), parts, all("value" in change.tensors for change in later[weight])


def _by_weight(adapter: Path | str, base: Path | str, bones: Skeleton) -> dict[str, list[Change]]:
    found = defaultdict(list)
    for change in changes(adapter, base, bones):
        found[change.weight].append(change)
    return found


def _parts(place: str, entry: stored.Entry, later: list[Change], earlier: list[Change]) -> Iterator[tuple]:
    """Pieces of one weight with what is added to them; rows that the base does not have are left out."""
    now, before = [_reading(change) for change in later], [_reading(change) for change in earlier]
    first = 0
    for part in stored.pieces(entry, place):
        rows = part.float()
        added = _added(now, rows, first)
        yield rows, added - _added(before, rows, first) if before else added
        first += len(part)


def _added(several: list[Callable], rows, first: int):
    """What all changes of one adapter add to `rows`, the weight's from number `first` on."""
    import torch

    added = torch.zeros_like(rows)
    for change in several:
        added = added + change(rows + added, first)
    return added


def _reading(change: Change) -> Callable:
    """A function (rows in fp32, number of the first) -> what this change adds to them."""
    if "value" in change.tensors:
        key, entry = change.tensors["value"]

        def value(rows, first: int):
            with safe_open(entry.file, "pt") as opened:
                return opened.get_slice(key)[first : first + len(rows)].float() - rows

        return value
    return partial(_delta, change, sums.matrices(change))


def _delta(change: Change, parts: dict, rows, first: int):
    """scaling * B A of these rows; for DoRA what the trained length of the rows makes of it."""
    last = first + len(rows)
    delta = sums.delta(change, parts, first, last)
    if "magnitude" not in parts:
        return delta
    total = rows + delta
    return (parts["magnitude"][first:last] / total.norm(dim=1)).view(-1, 1) * total - rows


def _order(weight: str) -> list:
    """Sort key: layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in weight.split(".")]
