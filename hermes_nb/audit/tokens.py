"""The ids exactly as the trainer will see them, in batches: prompts once, proved a prefix, then reused.

A control token splits a text before anything else looks at it, so what stands before the last one of the prompt can be
encoded by itself, and what follows too, with the same ids as the whole. Lesson: 01_preference_data.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hermes_nb import templates
from hermes_nb.audit.texts import Fault

PROVED = 32  # rows of each audit whose ids are compared with those of the whole texts


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens of a prompt and its answers (one for a conversation), and what is wrong with the ids."""

    prompt: int
    answers: tuple[int, ...]
    fault: Fault = None


@contextmanager
def all_cores() -> Iterator[None]:
    """Let the tokenizer use all cores inside this block; elsewhere it must not, because trainers fork."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


class Encoder:
    """Renders rows with the tokenizer's chat template and encodes them as the trainer does, sharing the prompt."""

    def __init__(self, tokenizer):
        self.tokenizer, self.stop = tokenizer, tokenizer.eos_token_id
        self.controls, self.heads = self._controls(), {}
        self.left_to_prove = PROVED

    def _controls(self) -> list[str]:
        """Control tokens of the template at which a text may be cut: they take no blanks and stand for themselves."""
        probe = [{"role": "user", "content": "a"}]
        text = templates.render(self.tokenizer, probe, add_generation_prompt=True)
        plain = [
            str(t) for t in self.tokenizer.added_tokens_decoder.values()
            if not (t.lstrip or t.rstrip or t.single_word or t.normalized)
        ]  # fmt: skip
        return [token for token in plain if token in text]

    def texts(self, row: dict) -> tuple[list[str], int, bool]:
        """Texts of one row to encode, where the prompt was cut (0: nowhere), and whether its text is a prefix.

        The texts are what stands before the cut, then, for each answer, what follows it.
        """
        turns = row.get("messages")
        if turns:
            first = next(i for i, m in enumerate(turns) if m["role"] == "assistant")
            asked, wholes = turns[:first], [turns]
        else:
            asked, wholes = row["prompt"], [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]
        prompt = templates.render(self.tokenizer, asked, add_generation_prompt=True)
        rendered = [templates.render(self.tokenizer, whole) for whole in wholes]
        at = max((prompt.rfind(token) for token in self.controls), default=0)
        at = max(at, 0)
        same = all(text.startswith(prompt) for text in rendered)
        return [prompt[:at], *(text[at:] for text in rendered), prompt[at:]], at, same

    def encode(self, texts: list[str]) -> list:
        """Encodings of texts without any added token, in one batch."""
        return self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    def head(self, text: str) -> list[int]:
        """Ids of what stands between the cut and the answer; nearly always the same text."""
        if text not in self.heads:
            if len(self.heads) > 1000:
                self.heads.clear()
            self.heads[text] = self.encode([text])[0].ids
        return self.heads[text]

    def tokens(self, texts: list[str], encodings: list, same: bool) -> Tokens:
        """Lengths and faults of one row from the encodings of its texts."""
        opening = self.head(texts[-1])
        prompt = len(encodings[0]) + len(opening)
        answers = tuple(len(e) - len(opening) for e in encodings[1:])
        if not same:
            return Tokens(prompt, answers, ("render unlike generation", "the template renders the prompt in two ways"))
        for side, encoding in zip(sides(answers), encodings[1:], strict=True):
            fault = self._answer_fault(encoding.ids, opening)
            if fault:
                return Tokens(prompt, answers, (fault, side))
        return Tokens(prompt, answers)

    def _answer_fault(self, ids: list[int], opening: list[int]) -> str | None:
        if ids[: len(opening)] != opening:
            return "prompt not a prefix"
        if ids[-1] != self.stop:
            return "stop token not last"
        return "stop token doubled" if ids[-2:-1] == [self.stop] else None

    def prove(self, row: dict, found: Tokens) -> None:
        """Compare the first rows of an audit with the ids of their whole texts; cut no more texts once they differ."""
        if not self.left_to_prove or found.fault:
            return
        self.left_to_prove -= 1
        if whole_lengths(self.tokenizer, row) != (found.prompt, *found.answers):
            self.controls, self.heads, self.left_to_prove = [], {}, 0


def sides(answers: tuple) -> tuple[str, ...]:
    """Names of the answers of a row."""
    return ("chosen", "rejected") if len(answers) == 2 else ("answer",)


def whole_lengths(tokenizer, row: dict) -> tuple[int, ...]:
    """Tokens of prompt and answers with every text encoded as a whole, as TRL does."""
    if "messages" in row:
        turns = row["messages"]
        first = next(i for i, m in enumerate(turns) if m["role"] == "assistant")
        prompt = templates.prompt_ids(tokenizer, turns[:first])
        return len(prompt), len(templates.conversation_ids(tokenizer, turns)[0]) - len(prompt)
    return tuple(map(len, templates.pair_ids(tokenizer, row)))


def too_long(found: Tokens, max_length: int) -> Fault:
    """What truncation at `max_length` would do to a row; None where it fits."""
    if found.prompt >= max_length:
        return "prompt too long", f"{found.prompt} tokens"
    lost = [side for side, n in zip(sides(found.answers), found.answers, strict=True) if found.prompt + n > max_length]
    longest = found.prompt + max(found.answers)
    return ("stop token cut", f"{' and '.join(lost)}: {longest} tokens") if lost else None
