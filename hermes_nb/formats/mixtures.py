"""Several sources in one set: how many rows of each, and in which order. Both are functions of the seed alone.

A weight names its meaning: a share of its source (alignment-handbook), or of the mixture (TRL). Lesson:
01_preference_data.
"""

from hermes_nb.errors import DataProblem
from hermes_nb.formats.loading import Reading, Stream, drawn
from hermes_nb.recipes import Source

# Hermes-7b's three sources, from the hub; its script shuffles hh-rlhf with seed 42 and takes 50,000
HERMES_PREFERENCE = (Source("ultrafeedback"), Source("hh_rlhf", limit=50_000), Source("rlhf_reward"))


def stream(part: Source, numbers=None) -> Stream:
    """The rows of one source of a recipe, or those with these numbers."""
    return Stream(part.source, part.path, part.split, numbers=numbers, variant=part.variant, **part.options)


def sizes(parts, counts: list[int]) -> list[int]:
    """How many rows each part takes of `counts` rows it has.

    Shares of the mixture are normalised to sum to one, and the mixture is as large as it can be without taking a row
    twice (TRL 1.16). Counts are of raw rows, here as there: what cannot be used is dropped afterwards, and counted.
    """
    shares = [part.share_of_mixture for part in parts]
    if any(share is not None for share in shares):
        if any(share is None for share in shares):
            raise DataProblem("share_of_mixture: give it for every source of the mixture, or for none.")
        weights = [share / sum(shares) for share in shares]
        total = min(count / weight for count, weight in zip(counts, weights, strict=True) if weight)
        return [min(count, round(weight * total)) for count, weight in zip(counts, weights, strict=True)]
    return [_taken(part, count) for part, count in zip(parts, counts, strict=True)]


def _taken(part, count: int) -> int:
    """Rows that one part takes by itself: all, a count, or a share of what it has."""
    if part.share_of_source is not None:
        return int(part.share_of_source * count)
    return count if part.limit is None else min(part.limit, count)


def streams(parts, seed: int = 0) -> list[Stream]:
    """One stream a part, of the rows that the mixture takes of it."""
    whole = [part.limit is None and part.share_of_source is None and part.share_of_mixture is None for part in parts]
    if all(whole):
        return [stream(part) for part in parts]
    counts = [stream(part).count() for part in parts]
    out = []
    for part, count, size, every in zip(parts, counts, sizes(parts, counts), whole, strict=True):
        numbers = range(size) if part.take == "first" else drawn(count, size, seed)
        out.append(stream(part, None if every else numbers))
    return out


def read_mixture(parts, seed: int = 0) -> Reading:
    """Read and concatenate the parts, in an order that depends on `seed` alone. Raises as `load` does."""
    import datasets

    found = [stream.done() for stream in streams(parts, seed)]
    shapes = {str(one.rows.features): part.source for one, part in zip(found, parts, strict=True)}
    if len(shapes) > 1:
        raise DataProblem(
            f"{' and '.join(shapes.values())} give rows of different columns; mix pairs with pairs alone."
        )
    rows = datasets.concatenate_datasets([one.rows for one in found]).shuffle(seed=seed)
    return Reading(rows, [row for one in found for row in one.dropped])


def mixture(parts, seed: int = 0):
    """The rows of `read_mixture`, for whoever accounts for the unusable ones elsewhere."""
    return read_mixture(parts, seed).rows
