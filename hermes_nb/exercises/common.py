"""How an exercise is checked: cases with their reasons, lines that teach, and nothing ever raised."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

UNSOLVED = "not solved yet"


@dataclass(frozen=True)
class Case:
    """One checked case: its name in words, the arguments, what must come out, and why."""

    name: str
    given: tuple
    expected: object
    why: str


def same(found, expected, tolerance: float = 1e-6) -> bool:
    """Equal, or numbers within `tolerance` (relative above 1); containers element by element."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[k], expected[k], tolerance) for k in expected)
        )
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(same(f, e, tolerance) for f, e in zip(found, expected, strict=True))
        )
    if isinstance(expected, float):
        try:
            return math.isclose(float(found), expected, rel_tol=tolerance, abs_tol=tolerance)
        except (TypeError, ValueError):
            return False
    return type(found) is type(expected) and found == expected if isinstance(expected, bool) else found == expected


def check(answer: Callable, cases: Iterable[Case], hint: str, tolerance: float = 1e-6) -> bool:
    """Run `answer` on every case and print what came of it; returns whether all hold.

    An answer that gives None or `...` everywhere counts as unsolved: the hint is printed. Of a wrong one the first
    failing case is named with what was found, what must come out, and why.
    """
    results = [_try(answer, case, tolerance) for case in cases]
    if all(untouched for untouched, _ in results):
        return unsolved(hint)
    wrong = next((line for _, line in results if line), None)
    if wrong:
        print(f"{sum(not line for _, line in results)} of {len(results)} cases hold. First that does not: {wrong}")
        return False
    return solved(f"all {len(results)} cases hold")


def _try(answer: Callable, case: Case, tolerance: float) -> tuple[bool, str | None]:
    """(untouched, what is wrong) of one case."""
    try:
        found = answer(*case.given)
    except NotImplementedError:
        return True, case.why
    except Exception as error:  # a learner's code may raise anything; the check must not
        return False, f"{case.name}: raised {type(error).__name__} ({error}). {case.why}"
    if found is None and case.expected is not None or found is ...:
        return True, f"{case.name}: gave {found!r}, must be {case.expected!r}. {case.why}"
    if same(found, case.expected, tolerance):
        return False, None
    return False, f"{case.name}: gave {found!r}, must be {case.expected!r}. {case.why}"


def unsolved(hint: str) -> bool:
    """Print the hint of an untouched exercise; returns False."""
    print(f"{UNSOLVED}. Hint: {hint}")
    return False


def solved(line: str) -> bool:
    """Print that an exercise is solved; returns True."""
    print(f"solved: {line}.")
    return True
