"""Better, by how much, how sure: rates with 95 % intervals from generated answers and held-out rows.

What is taught at `tiny` is form, not facts, so a rule can count it and no judge is needed. Lesson: 05_evaluate.
"""

from hermes_nb.evaluate.compared import compare
from hermes_nb.evaluate.preferring import held_out, margins, preferences
from hermes_nb.evaluate.quiz import fact_rows, facts
from hermes_nb.evaluate.rates import (
    bootstrap,
    calibration,
    interval,
    length_baseline,
    mean,
    needed_votes,
    paired,
    rate,
)
from hermes_nb.evaluate.reports import figures, markdown, report, text
from hermes_nb.evaluate.styles import (
    CARD,
    PLAIN_QUESTIONS,
    STOCK_OPENING,
    behaviour,
    form_score,
    plain_stops,
    style,
    summary,
    written,
)
from hermes_nb.evaluate.turns import by_category, two_turn_questions, two_turns
from hermes_nb.evaluate.votes import Ballot, duels

__all__ = [
    "CARD", "PLAIN_QUESTIONS", "STOCK_OPENING", "Ballot", "behaviour", "bootstrap", "by_category", "calibration",
    "compare", "duels", "fact_rows", "facts", "figures", "form_score", "held_out", "interval", "length_baseline",
    "margins", "markdown", "mean", "needed_votes", "paired", "plain_stops", "preferences", "rate", "report", "style",
    "summary", "text", "two_turn_questions", "two_turns", "written",
]  # fmt: skip
