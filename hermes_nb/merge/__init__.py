"""Adapter and base to plain weights, how faithful they are, and how much of a delta a number format keeps.

Lesson: 04_merge.
"""

from hermes_nb.merge.candidates import compare
from hermes_nb.merge.choice import Choice, choose, choose_dtype, reason
from hermes_nb.merge.faithful import divergence, expected, faithfulness
from hermes_nb.merge.survival import base_folder
from hermes_nb.merge.weights import DTYPES, ONTO, merge, trained_in

__all__ = [
    "DTYPES", "ONTO", "Choice", "base_folder", "choose", "choose_dtype", "compare", "divergence", "expected",
    "faithfulness", "merge", "reason", "trained_in",
]  # fmt: skip
