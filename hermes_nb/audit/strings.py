"""Rows that hold rendered texts instead of messages, looked at as TRL encodes them. Lesson: 01_preference_data.

TRL adds a stop token to a text that does not end in one, and the tokenizer adds its start token in front, whatever the
text itself begins with: three defects of published systems come from there.
"""

from hermes_nb import templates
from hermes_nb.audit.texts import Fault
from hermes_nb.audit.tokens import Tokens
from hermes_nb.formats import unwrap


def is_rendered(row: dict) -> bool:
    """Whether a row holds texts (`prompt, chosen, rejected` or `text`) instead of messages."""
    return isinstance(row.get("text"), str) or isinstance(row.get("prompt"), str)


def text_fault(row: dict) -> Fault:
    """Why a row of rendered texts would teach something false, as far as its text tells."""
    for part in ("text", "prompt", "chosen", "rejected"):
        if part in row and not row[part].strip():
            return ("empty prompt", "") if part == "prompt" else ("empty answer", part)
    return ("identical answers", "") if "chosen" in row and row["chosen"].strip() == row["rejected"].strip() else None


def tokens(tokenizer, row: dict) -> Tokens:
    """Lengths and faults of a row of rendered texts, with the stop token that TRL appends."""
    stop = tokenizer.eos_token
    prompt = tokenizer(row.get("prompt", ""))["input_ids"] if "prompt" in row else []
    sides = [row[side] for side in ("chosen", "rejected") if side in row] or [row["text"]]
    wholes = []
    for side in sides:
        ended = side if side.endswith(stop) else side + stop
        wholes.append(tokenizer(row.get("prompt", "") + ended)["input_ids"])
    lengths = tuple(len(ids) - len(prompt) for ids in wholes)
    fault = _start(tokenizer, wholes[0], row) or _unlike(tokenizer, row)
    for ids in wholes:
        fault = fault or _end(tokenizer, ids, prompt)
    return Tokens(len(prompt), lengths, fault)


def _start(tokenizer, ids: list[int], row: dict) -> Fault:
    """A start token that is doubled, or that the template does not print."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] != [bos]:
        return None
    if ids[1:2] == [bos]:
        return "BOS doubled", f"{tokenizer.bos_token} twice"
    begins = (row.get("prompt") or row.get("text", "")).startswith(tokenizer.bos_token)
    return None if begins else ("BOS not printed", f"{tokenizer.bos_token} in front")


def _end(tokenizer, ids: list[int], prompt: list[int]) -> Fault:
    """A second stop token, or something after the last one."""
    if ids[: len(prompt)] != prompt:
        return "prompt not a prefix", ""
    if ids[-1] != tokenizer.eos_token_id:
        return "stop token not last", ""
    before = [i for i in ids[len(prompt) : -1] if tokenizer.decode([i]).strip()]
    return ("stop token doubled", "") if before[-1:] == [tokenizer.eos_token_id] else None


def _unlike(tokenizer, row: dict) -> Fault:
    """Whether the rendered prompt is what generation would start from."""
    found = unwrap(row.get("prompt") or row.get("text", ""))
    if not found:
        return "render unlike generation", "no template around the text"
    if "text" in row:
        same = templates.render(tokenizer, found) == row["text"].removesuffix("\n")
        return None if same else ("render unlike generation", "the text is not what the template renders")
    wanted = templates.render(tokenizer, found, add_generation_prompt=True)
    return None if wanted == row["prompt"] else ("render unlike generation", f"ends in {row['prompt'][-24:]!r}")
