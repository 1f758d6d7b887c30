"""Measurements side by side in one run, with the ratios that this project promises: `python -m hermes_nb bench WHAT`.

All sides work on the same data, in turn, so that a busy machine slows each of them. Lessons: 01_preference_data,
03_dpo, 04_merge.
"""

from hermes_nb.bench.auditing import data
from hermes_nb.bench.merging import merging as merge
from hermes_nb.bench.showing import (
    audit_markdown,
    audit_text,
    merging_markdown,
    merging_text,
    training_markdown,
    training_text,
    write_readme,
)
from hermes_nb.bench.training import dpo

__all__ = [
    "audit_markdown", "audit_text", "data", "dpo", "merge", "merging_markdown", "merging_text", "training_markdown",
    "training_text", "write_readme",
]  # fmt: skip
