"""What every reader is made of: messages, pairs, and the reasons for which a raw row cannot be used.

Lesson: 01_preference_data.
"""

import contextlib
import json

from hermes_nb.errors import DataProblem

# reason -> what is wrong with the raw row; the audit counts these together with its own
UNUSABLE = {
    "missing column": "the row lacks a column of its schema",
    "wrong type": "a column holds something else than its schema promises",
    "broken characters": "a lone surrogate or a NUL, which no tokenizer or no file survives",
    "no dialogue": "the text is not made of turns, so nobody knows who speaks",
    "no message": "a list of messages is empty",
    "unknown role": "a role that is none of system, user, assistant or their usual other names",
    "prompts differ": "chosen and rejected answer different prompts; DPO's formula has one",
    "no preference": "both answers are rated the same, or nobody says which is better",
    "fewer than two answers": "nothing to compare",
    "overwritten": "the published script keeps one row a prompt, the last",
    "unlabelled": "the published script leaves it out",
    "both safe": "safety is the label here, and both answers are safe",
    "none safe": "no safe answer to learn from",
    "too many characters": "longer than the published script allows (it counts characters)",
}


class Unusable(DataProblem):
    """A raw row that no pair or conversation can be made of; `reason` is one of UNUSABLE, `detail` says where."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail
        words = f"{reason} ({detail})" if detail else reason
        super().__init__(detail if reason == "missing column" else words)


def escaped(words: str) -> str:
    """Text that every file can hold and that a terminal shows and does not obey: what cannot be printed, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def text(value, column: str) -> str:
    """The text in a column; None is empty. Raises Unusable for another type, a lone surrogate or a NUL."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unusable("wrong type", f"{column} holds {type(value).__name__}, not text")
    if "\0" in value:
        raise Unusable("broken characters", f"{column} holds a NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unusable("broken characters", f"{column}, character {error.start}: lone surrogate") from error
    return value


def number(value, column: str) -> float | None:
    """A number, also one written as text; None where there is none (`N/A`, empty). Raises Unusable for other types."""
    if value is None or isinstance(value, str):
        try:
            found = float(value or "nan")
        except ValueError:
            return None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value) if abs(value) < 1e300 else float("nan")
    else:
        raise Unusable("wrong type", f"{column} holds {type(value).__name__}, not a number")
    return found if found == found else None


def flag(value, column: str) -> bool:
    """True or False, also as 0, 1 or text. Raises Unusable for anything else."""
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, (bool, int, float, str)) or key not in known:
        raise Unusable("wrong type", f"{column} holds {type(value).__name__} {value!r:.20}, neither true nor false")
    return known[key]


def items(value, column: str, kind: type = dict) -> list:
    """A list whose items are all of `kind`; a CSV cell may hold it as JSON. Raises Unusable for anything else."""
    value = from_cell(value, "[")
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, kind) for item in value):
        raise Unusable("wrong type", f"{column} is no list of {kind.__name__}s")
    return list(value)


def from_cell(value, opening: str):
    """The list or object that a CSV cell holds as JSON text; anything else as it is."""
    if isinstance(value, str) and value.startswith(opening):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def said(role: str, content, column: str) -> dict:
    """One message, its text checked."""
    return {"role": role, "content": text(content, column)}


# how sets call the three roles
ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip


def message(item: dict, column: str) -> dict:
    """One message of `role` and `content`, or of ShareGPT's `from` and `value`. Raises Unusable for another role."""
    role, content = ("role", "content") if "role" in item else ("from", "value")
    if role not in item or content not in item:
        raise Unusable("wrong type", f"{column}: a message has role and content, or from and value")
    name = item[role]
    if not isinstance(name, str) or name.strip().lower() not in ROLES:
        raise Unusable("unknown role", f"{column}: {name!r:.30}")
    return said(ROLES[name.strip().lower()], item[content], column)


def messages(value, column: str) -> list[dict]:
    """A list of messages, without an empty system turn. Raises Unusable where it is none, or empty."""
    found = without_empty_system([message(item, column) for item in items(value, column)])
    if not found:
        raise Unusable("no message", column)
    return found


def without_empty_system(found: list[dict]) -> list[dict]:
    """The messages without a system turn that says nothing: some sets and templates insert one into every row."""
    return [m for m in found if m["role"] != "system" or m["content"].strip()]


def pair(prompt: list[dict], chosen: str, rejected: str) -> dict:
    """A pair in TRL's conversational form: three lists of messages."""
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def parted(chosen: list[dict], rejected: list[dict]) -> dict:
    """Two conversations that part at their last message, as a pair. Raises Unusable where they part before."""
    if not chosen or not rejected:
        raise Unusable("no message", "chosen" if rejected else "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("prompts differ")
    return {"prompt": chosen[:-1], "chosen": [chosen[-1]], "rejected": [rejected[-1]]}
