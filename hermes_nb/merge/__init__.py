"""Adapter and base to plain weights, how faithful they are, and how much of a delta a number format keeps.

Lesson: 04_merge.
"""

from hermes_nb.merge.choice import Choice, choose, choose_dtype, reason
from hermes_nb.merge.faithful import compare_folders, faithfulness
from hermes_nb.merge.survival import gigabytes
from hermes_nb.merge.weights import DTYPES, ONTO, merge

__all__ = [
    "DTYPES", "ONTO", "Choice", "choose", "choose_dtype", "compare_folders", "faithfulness", "gigabytes", "merge",
    "reason",
]  # fmt: skip
