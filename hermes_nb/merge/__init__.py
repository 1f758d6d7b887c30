"""Adapter and base to plain weights, how faithful they are, and how much of a delta a number format keeps.

Lesson: 04_merge.
"""

from hermes_nb.merge.weights import DTYPES, ONTO, choose_dtype, compare_folders, faithfulness, gigabytes, merge, reason

__all__ = ["DTYPES", "ONTO", "choose_dtype", "compare_folders", "faithfulness", "gigabytes", "merge", "reason"]
