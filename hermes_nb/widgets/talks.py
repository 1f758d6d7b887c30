"""Talks with several models as plain data and HTML: what each gets, and what a reader sees. Lesson: 05_evaluate."""

import itertools
from dataclasses import dataclass

from hermes_nb import generate, models, templates, views

TURN = f"{views.CELL};line-height:1.4;margin:4px 0"
SPOKEN = f"{TURN};border-left:3px solid #0072B2;padding-left:8px"
PROMPT = f"{views.MONO};line-height:1.4"


@dataclass
class Turn:
    """One question to one model and what came of it; `kept` turns are the history that the model sees."""

    question: str
    text: str = ""
    foot: str = "waits for its turn"
    kept: bool = False


def speaker(model, tokenizer, adapter: str | None = None, seed: int = 0):
    """What `chat` asks: a callable that answers with `model` and its adapter `adapter` (None and `base`: none of them).

    Every answer takes the next seed, so that asking twice draws twice, and a notebook run again draws the same.
    """
    seeds = itertools.count(seed)

    def speak(messages, temperature, say, stop, max_new_tokens=128):
        with models.active(model, adapter or "base"):  # which also keeps cells that use models apart from the answer
            return generate.stream(model, tokenizer, messages, say, max_new_tokens, temperature, next(seeds), stop)

    return speak


def conversation(system: str, turns: list[Turn], question: str) -> list[dict]:
    """The messages that a model gets: the system turn (none when blank), its own history, the question."""
    out = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns:
        if turn.kept:
            out += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.text}]
    return [*out, {"role": "user", "content": question}]


def column(turns: list[Turn]) -> str:
    """The turns of one model as HTML; every text is escaped."""
    return "".join(
        f"<div style='{TURN}'><b>{views.text(t.question)}</b></div><div style='{SPOKEN}'>{views.text(t.text)}</div>"
        f"<div style='{TURN};font-size:85%;opacity:.75'><i>{views.text(t.foot)}</i></div>"
        for t in turns
    )


def prompts(tokenizer, sent: dict[str, list[dict]]) -> str:
    """The exact text that each model gets, as HTML; models that get the same share a block."""
    blocks = {}
    for name, messages in sent.items():
        blocks.setdefault(templates.render(tokenizer, messages, True), []).append(name)
    return "".join(
        f"<div><b>{views.text(', '.join(names))}</b><div style='{PROMPT}'>{views.text(text)}</div></div>"
        for text, names in blocks.items()
    )


def foot(answer, seconds: float, stopped: bool) -> str:
    """What stands below an answer: tokens, how it ended, seconds, tokens a second; `stopped` by the reader."""
    end = "ended by itself" if answer.stops else "stopped by you" if stopped else "cut off at the limit"
    return f"{answer.tokens} tokens, {end}, {seconds:.1f} s, {answer.tokens / max(seconds, 1e-3):.1f} tokens/s"
