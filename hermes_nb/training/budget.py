"""How many tokens are computed at once: what memory allows, or less where a smaller part is faster.

Many tokens at once spread the cost of restoring 4-bit weights, which every pass pays anew; few stay in the caches of a
CPU and keep a dense mask small. So it is measured, on the model and the rows at hand, once a machine.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hermes_nb.runs import write_json
from hermes_nb.runtime import cache_dir

SMALL = 1024  # tokens; a step up to this size is not cut, and nothing is measured


@dataclass(frozen=True)
class Budget:
    """At most so many `tokens` at once, and why; `halvings` counts how often memory ran out."""

    tokens: int
    reason: str
    halvings: int = 0

    def halved(self, in_use: int) -> "Budget":
        """Half of it, or of the `in_use` tokens of a step where those are fewer."""
        return replace(self, tokens=min(self.tokens, in_use) // 2, reason="out of memory", halvings=self.halvings + 1)

    def to_dict(self) -> dict:
        """As it is written to `run.json`."""
        return asdict(self)


def candidates(largest_row: int, step: int, fits: int) -> list[int]:
    """Budgets worth measuring, in tokens, smallest first: powers of two from SMALL up to a whole step, if it `fits`."""
    top = max(min(step, fits), largest_row)
    tried = SMALL
    while tried < largest_row:
        tried *= 2
    out = []
    while tried < top:
        out.append(tried)
        tried *= 2
    return [*out, top]


def plan(largest_row: int, step: int, fits: int, key: str, seconds: Callable[[int], float]) -> Budget:
    """Choose the budget of a run whose largest row and largest step have so many tokens, of which so many fit.

    `seconds(tokens)` measures a part of that size and is asked for sizes that the file of this machine does not know
    under `key` yet (what decides the speed: model, precision, chip, attention).
    """
    sizes = candidates(largest_row, step, fits)
    if len(sizes) == 1:
        limit = "memory allows no more" if fits < step else "a whole step"
        return Budget(sizes[0], limit)
    known, rates = _known().get(key, {}), {}
    for size in sizes:
        rates[size] = known.get(str(size)) or seconds(size) / size
        if rates[size] > 1.1 * min(rates.values()):
            break  # it only grows from here
    _remember(key, {size: rate for size, rate in rates.items() if math.isfinite(rate)})
    best = min(rates, key=rates.get)
    told = ", ".join(f"{1 / rate:.0f} at {size}" for size, rate in rates.items())
    return Budget(best, f"fastest of those measured here, in tokens a second: {told}")


def recalled(key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Figures that the file of this machine knows under `key`; else they are measured and kept."""
    known = _known().get(key)
    if known is None:
        known = measure()
        if all(known.values()):  # what could not be measured is asked for again
            _remember(key, known)
    return known


def _file() -> Path:
    return cache_dir() / "budgets.json"


def _known() -> dict:
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def _remember(key: str, figures: dict) -> None:
    known = _known()
    known[key] = known.get(key, {}) | {str(name): figure for name, figure in figures.items()}
    write_json(_file(), known)
