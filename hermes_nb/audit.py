"""The tokens as the trainer will see them, and every row accounted for: in = kept + dropped, each with a reason.

TRL cuts answers at `max_length` (the stop token falls off, and the model learns not to stop) and drops rows whose
prompt fills it, without a word. Here such rows are dropped beforehand, by name. Lesson: 01_preference_data.
"""

from collections import Counter
from dataclasses import dataclass

from hermes_nb import templates
from hermes_nb.errors import DataProblem

REASONS = {
    "empty prompt": "no text to answer",
    "empty answer": "nothing to learn from",
    "identical answers": "chosen equals rejected: the loss stays ln 2",
    "roles": "turns must be [system], user, assistant, ..., and end with the assistant",
    "prompt not a prefix": "the answer's first blanks merge with the prompt: trained on what is never generated from",
    "prompt too long": "the prompt alone fills max_length; TRL would drop the row silently",
    "stop token cut": "the answer is cut at max_length and would be trained without its stop token",
}


@dataclass(frozen=True)
class Audit:
    """Outcome of an audit: `kept` and `dropped` rows as Datasets, `report` as counts."""

    kept: object
    dropped: object
    report: dict

    def line(self) -> str:
        """The report in one line."""
        why = ", ".join(f"{n} {reason}" for reason, n in self.report["reasons"].items()) or "none dropped"
        return f"{self.report['rows']} rows in, {self.report['kept']} kept, {self.report['dropped']} dropped ({why})"


def _roles_hold(messages: list[dict], last: str) -> bool:
    """A system turn at most first, then user and assistant in turn, ending with `last`."""
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    wanted = ["user", "assistant"] * len(turns)
    return bool(turns) and turns == wanted[: len(turns)] and turns[-1] == last


def _pair_reason(row: dict, tokenizer, max_length: int) -> str | None:
    """Why a pair would teach something false; None for a good one."""
    sides = [row["chosen"], row["rejected"]]
    if not _roles_hold(row["prompt"], "user") or any([m["role"] for m in side] != ["assistant"] for side in sides):
        return "roles"
    if not all(m["content"].strip() for m in row["prompt"] if m["role"] == "user"):
        return "empty prompt"
    answers = [side[0]["content"].strip() for side in sides]
    if not all(answers):
        return "empty answer"
    if answers[0] == answers[1]:
        return "identical answers"
    try:
        prompt, *completions = templates.pair_ids(tokenizer, row)
    except DataProblem:
        return "prompt not a prefix"
    if len(prompt) >= max_length:
        return "prompt too long"
    return "stop token cut" if len(prompt) + max(map(len, completions)) > max_length else None


def _conversation_reason(row: dict, tokenizer, max_length: int) -> str | None:
    """Why a conversation would teach something false; None for a good one."""
    messages = row["messages"]
    if not _roles_hold(messages, "assistant"):
        return "roles"
    if not all(m["content"].strip() for m in messages if m["role"] == "user"):
        return "empty prompt"
    if not all(m["content"].strip() for m in messages if m["role"] == "assistant"):
        return "empty answer"
    ids, trained = templates.conversation_ids(tokenizer, messages)
    if 1 not in trained[:max_length]:
        return "prompt too long"
    return "stop token cut" if len(ids) > max_length else None


def _audit(rows, reason_of, tokenizer, max_length: int, strict: bool) -> Audit:
    reasons = [reason_of(row, tokenizer, max_length) for row in rows]
    bad = [i for i, reason in enumerate(reasons) if reason]
    if strict and bad:
        row = rows[bad[0]]
        raise DataProblem(
            f"{row['source']}, row {row['row']}: {reasons[bad[0]]} ({REASONS[reasons[bad[0]]]}); "
            f"{len(bad)} of {len(rows)} rows are at fault. Mend them, or audit without strict to drop them."
        )
    kept = rows.select([i for i, reason in enumerate(reasons) if not reason])
    dropped = rows.select(bad).add_column("reason", [reasons[i] for i in bad])
    report = {
        "rows": len(rows), "kept": len(kept), "dropped": len(dropped), "max_length": max_length,
        "reasons": dict(Counter(reasons[i] for i in bad).most_common()),
        "dropped_rows": [{"source": r["source"], "row": r["row"], "reason": r["reason"]} for r in dropped],
    }  # fmt: skip
    return Audit(kept, dropped, report)


def pairs(rows, tokenizer, max_length: int = 1024, strict: bool = False) -> Audit:
    """Audit preference pairs (`prompt, chosen, rejected, source, row`) against the template of `tokenizer`.

    Lengths are in tokens, prompt and longer answer together. `strict` raises DataProblem at the first fault.
    """
    return _audit(rows, _pair_reason, tokenizer, max_length, strict)


def conversations(rows, tokenizer, max_length: int = 1024, strict: bool = False) -> Audit:
    """Audit conversations (`messages, source, row`) against the template of `tokenizer`; lengths in tokens."""
    return _audit(rows, _conversation_reason, tokenizer, max_length, strict)
