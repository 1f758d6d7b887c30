"""What is wrong with a row as text, before any token is looked at. Lesson: 01_preference_data."""

import re

from hermes_nb import formats

ROLES = ("system", "user", "assistant")
Fault = tuple[str, str] | None  # reason, detail
MARKS = re.compile(r"<\|(system|user|assistant)\|>|^### (Instruction|Input|Response)\b|\[/?INST\]", re.MULTILINE)


def control_pattern(tokenizer) -> re.Pattern:
    """What the tokenizer would turn into control ids wherever it stands: its special tokens, longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return re.compile("|".join(map(re.escape, sorted(special | {tokenizer.eos_token}, key=len, reverse=True))))


def turns_fault(messages: list[dict], last: str) -> Fault:
    """A system turn at most first, then user and assistant in turn, ending with `last`."""
    roles = [m["role"] for m in messages]
    if any(role not in ROLES for role in roles):
        return "roles", f"unknown role {next(r for r in roles if r not in ROLES)!r:.30}"
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if any(a == b for a, b in zip(turns, turns[1:], strict=False)):
        return "repeated role", " ".join(roles)[:60]
    if not turns or turns[0] != "user" or "system" in turns:
        return "roles", f"turns are {' '.join(roles)[:60] or 'none'}"
    return None if turns[-1] == last else ("last turn", f"the last turn is the {turns[-1]}'s")


def _said(messages: list[dict], role: str) -> list[str]:
    return [m["content"].strip() for m in messages if m["role"] == role]


def _characters(messages: list[dict], control: re.Pattern) -> Fault:
    """Control tokens spelled out, lone surrogates, NULs."""
    for m in messages:
        found = control.search(m["content"])
        if found:
            return "control token in text", f"{found[0]} in the {m['role']}'s words"
        if "\0" in m["content"] or re.search("[\ud800-\udfff]", m["content"]):
            return "broken characters", f"in the {m['role']}'s words"
    return None


def rendered(messages: list[dict]) -> Fault:
    """A message that begins like a conversation rendered by some template."""
    for m in messages:
        marks = formats.template_of(m["content"])
        if marks is not None:
            return "template in text", f"the {m['role']}'s words begin with {m['content'].lstrip()[:24]!r}"
    return None


def _whole_texts(messages: list[dict]) -> Fault:
    for m in messages:
        if not isinstance(m["content"], str):
            return "wrong type", f"the {m['role']}'s words are {type(m['content']).__name__}"
    return None


def pair_fault(row: dict, control: re.Pattern) -> Fault:
    """Why a pair would teach something false, as far as its text tells; None for a good one."""
    sides = [row["chosen"], row["rejected"]]
    everything = [*row["prompt"], *sides[0], *sides[1]]
    fault = _whole_texts(everything) or turns_fault(row["prompt"], "user")
    if fault:
        return fault
    if any([m["role"] for m in side] != ["assistant"] for side in sides):
        return "last turn", "each answer is one turn of the assistant"
    if not all(_said(row["prompt"], "user")):
        return "empty prompt", ""
    answers = [side[0]["content"].strip() for side in sides]
    if not all(answers):
        return "empty answer", " and ".join(n for n, a in zip(("chosen", "rejected"), answers, strict=True) if not a)
    if not all(_said(row["prompt"], "assistant")):
        return "empty answer", "an earlier one"
    if answers[0] == answers[1]:
        return "identical answers", ""
    return _characters(everything, control) or rendered(everything)


def conversation_fault(row: dict, control: re.Pattern) -> Fault:
    """Why a conversation would teach something false, as far as its text tells; None for a good one."""
    messages = row["messages"]
    fault = _whole_texts(messages) or turns_fault(messages, "assistant")
    if fault:
        return fault
    if not all(_said(messages, "user")):
        return "empty prompt", ""
    if not all(_said(messages, "assistant")):
        return "empty answer", ""
    return _characters(messages, control) or rendered(messages)


def alike(chosen: str, rejected: str, share: float = 0.95) -> bool:
    """Whether two answers share nearly all their words (Jaccard of word sets, read where the lengths are close)."""
    if abs(len(chosen) - len(rejected)) > 0.1 * max(len(chosen), len(rejected)):
        return False
    a, b = ({*text.lower().split()} for text in (chosen, rejected))
    return len(a & b) >= share * len(a | b)


def warning(row: dict) -> tuple[str, str] | None:
    """A warning that one row deserves by itself: near-identical answers, template marks inside a message."""
    messages = row.get("messages") or [*row["prompt"], *row["chosen"], *row["rejected"]]
    found = next((m for m in map(MARKS.search, (m["content"] for m in messages)) if m), None)
    if found:
        return "template marks in text", found[0]
    if "chosen" in row and alike(row["chosen"][0]["content"], row["rejected"][0]["content"]):
        return "near-identical answers", ""
    return None
