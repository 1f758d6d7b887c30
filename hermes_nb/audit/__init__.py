"""The tokens as the trainer will see them, and every row accounted for. Lesson: 01_preference_data."""

from hermes_nb.audit.checking import conversations, pairs
from hermes_nb.audit.kept import Audit
from hermes_nb.audit.reasons import REASONS, WARNINGS
from hermes_nb.audit.report import text
from hermes_nb.audit.tokens import all_cores

__all__ = ["Audit", "REASONS", "WARNINGS", "all_cores", "conversations", "pairs", "text"]
