"""Texts that a chat template has already been laid around, taken apart into messages again.

Trained as they are, such texts would get a second template around the first. Lesson: 01_preference_data.
"""

import re

from hermes_nb.formats.rows import without_empty_system

ROLE = "(system|user|assistant)"
# a turn begins where the text does, or after the stop token of the one before
CHATML = re.compile(rf"(?:^|(?<=<\|im_end\|>))\s*<\|im_start\|>{ROLE}[ \t]*\n?")
ZEPHYR = re.compile(rf"(?:^|(?<=</s>))\s*<\|{ROLE}\|>[ \t]*\n?")
BARE_ZEPHYR = re.compile(rf"(?:^|(?<=\n))<\|{ROLE}\|>[ \t]*\n?")  # tags without a stop token anywhere
ALPACA = re.compile(r"(?:^|(?<=\n))### (Instruction|Input|Response):[ \t]*\n?")
GUANACO = re.compile(r"(?:^|(?<=\n))### (Human|Assistant|System|User):[ \t]*")
HUMAN = re.compile(r"(?:^|(?<=\n\n))(Human|Assistant):[ \t]*")
STOPS = {CHATML: "<|im_end|>", ZEPHYR: "</s>"}
NAMES = {
    "instruction": "user", "human": "user", "user": "user", "input": "input", "response": "assistant",
    "assistant": "assistant", "system": "system",
}  # fmt: skip


def template_of(text: str) -> re.Pattern | None:
    """The kind of marks that `text` begins with, or None; Alpaca's may have a preamble before them.

    Text that only mentions such marks, or quotes them, is text: control tokens in it are the audit's business.
    """
    begins = text.lstrip()
    for marks in (CHATML, ZEPHYR, GUANACO, HUMAN, ALPACA):
        if marks.match(begins):
            return BARE_ZEPHYR if marks is ZEPHYR and STOPS[ZEPHYR] not in text else marks
    return ALPACA if {"Instruction", "Response"} <= {*ALPACA.findall(text)} else None


def unwrap(text: str) -> list[dict] | None:
    """Messages of a text with ChatML, Zephyr, Alpaca, Guanaco or Human/Assistant marks; None where it holds none.

    Text before the first mark is the system's (Alpaca's preamble). An empty system turn, and an empty assistant turn at
    the end (the generation prompt), are no messages.
    """
    marks, text = template_of(text), text.strip()
    if marks is None:
        return None
    before, *rest = marks.split(text)
    turns = [("system", before)] if before.strip() else []
    turns += [(NAMES[name.lower()], said) for name, said in zip(rest[::2], rest[1::2], strict=True)]
    found = [{"role": role, "content": _clean(said, STOPS.get(marks))} for role, said in turns]
    return without_empty_system(_joined(_without_generation_prompt(found)))


def unwrap_answer(text: str, prompt: str) -> list[dict] | None:
    """Messages of an answer whose template's marks stand partly in the prompt; None where it holds none.

    ChatML's and Zephyr's turns are found also behind a stop token: such an answer holds more than one. `Assistant:` or
    `### Response:` are marks only where the prompt has the same kind of marks, and `</s>` at the end only where no
    `<s>` stands before it: an answer may well explain what these are.
    """
    for marks in STOPS:
        before, *rest = marks.split(text)
        if rest:
            turns = [("assistant", before)] if _clean(before, STOPS[marks]) else []
            turns += [(NAMES[name.lower()], said) for name, said in zip(rest[::2], rest[1::2], strict=True)]
            return [{"role": role, "content": _clean(said, STOPS[marks])} for role, said in turns]
    stop = next((s for s in STOPS.values() if text.rstrip().endswith(s) and (s != "</s>" or "<s>" not in text)), None)
    marks = template_of(prompt)
    if marks not in (None, *STOPS):
        before, *rest = marks.split(_clean(text, stop))
        turns = [("assistant", before)] if before.strip() or not rest else []
        turns += [(NAMES[name.lower()], said) for name, said in zip(rest[::2], rest[1::2], strict=True)]
        return [{"role": role, "content": said.strip()} for role, said in turns]
    return [{"role": "assistant", "content": _clean(text, stop)}] if stop else None


def _clean(said: str, stop: str | None) -> str:
    """What was said, without the stop token and the blanks that a template puts around it."""
    said = said.strip()
    return said.removesuffix(stop).strip() if stop else said


def _without_generation_prompt(found: list[dict]) -> list[dict]:
    """The messages without an open, empty assistant turn at the end."""
    return found[:-1] if found and found[-1] == {"role": "assistant", "content": ""} else found


def _joined(found: list[dict]) -> list[dict]:
    """Alpaca's Input belongs to the Instruction before it."""
    out: list[tuple[str, list[str]]] = []
    for said in found:
        if said["role"] == "input" and out and out[-1][0] == "user":
            out[-1][1].append(said["content"])
        else:
            out.append(("user" if said["role"] == "input" else said["role"], [said["content"]]))
    return [{"role": role, "content": "\n\n".join(part for part in parts if part)} for role, parts in out]
