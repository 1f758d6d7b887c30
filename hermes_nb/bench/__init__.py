"""Measurements side by side in one run, with the ratios that this project promises: `python -m hermes_nb bench WHAT`.

Both sides work on the same rows in the same process, in turn, so that a busy machine slows both. Lessons:
01_preference_data, 03_dpo.
"""

from hermes_nb.bench.auditing import data
from hermes_nb.bench.showing import audit_markdown, audit_text, training_markdown, training_text, write_readme
from hermes_nb.bench.training import dpo

__all__ = ["audit_markdown", "audit_text", "data", "dpo", "training_markdown", "training_text", "write_readme"]
