"""The ids exactly as the trainer will see them, in batches: prompts once, proved a prefix, then reused.

A control token splits a text before anything else looks at it, so what stands before the last one of the prompt can be
encoded by itself, and what follows too, with the same ids as the whole. Lesson: 01_preference_data.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jinja2 import TemplateError
from tokenizers import Tokenizer

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
        # a copy: the tokenizer remembers padding and truncation of whoever used it last
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_padding()
        self.backend.no_truncation()
        self.controls, self.heads = self._controls(), {}
        self.fault = template_fault(tokenizer)

    def _controls(self) -> list[str]:
        """Control tokens of the template at which a text may be cut: they take no blanks and stand for themselves."""
        probe = [{"role": "user", "content": "a"}]
        text = templates.render(self.tokenizer, probe, add_generation_prompt=True)
        plain = [
            str(t) for t in self.tokenizer.added_tokens_decoder.values()
            if not (t.lstrip or t.rstrip or t.single_word or t.normalized)
        ]  # fmt: skip
        return [token for token in plain if token in text]

    def texts(self, row: dict) -> tuple[list[str], Fault]:
        """Texts of one row to encode, and a fault where its prompt is rendered in two ways or not at all.

        What stands before the cut, then, for each answer, what follows it; last what lies between cut and answer.
        """
        asked, wholes = _parts(row)
        try:
            prompt = templates.render(self.tokenizer, asked, add_generation_prompt=True)
            rendered = [templates.render(self.tokenizer, whole) for whole in wholes]
        except TemplateError as error:  # a template may refuse a role
            return ["", *("" for _ in wholes), ""], ("render unlike generation", str(error)[:80])
        at = max(0, *(prompt.rfind(token) for token in self.controls)) if self.controls else 0
        same = all(text.startswith(prompt) for text in rendered)
        fault = None if same else ("render unlike generation", "the template renders the prompt in two ways")
        return [prompt[:at], *(text[at:] for text in rendered), prompt[at:]], fault

    def encode(self, texts: list[str]) -> list:
        """Encodings of texts without any added token, in one batch."""
        return self.backend.encode_batch_fast(texts, add_special_tokens=False)

    def head(self, text: str) -> list[int]:
        """Ids of what stands between the cut and the answer; nearly always the same text."""
        if text not in self.heads:
            if len(self.heads) > 1000:
                self.heads.clear()
            self.heads[text] = self.encode([text])[0].ids
        return self.heads[text]

    def tokens(self, texts: list[str], encodings: list, fault: Fault = None) -> Tokens:
        """Lengths and faults of one row from the encodings of its texts."""
        opening = self.head(texts[-1])
        prompt = len(encodings[0]) + len(opening)
        answers = tuple(len(e) - len(opening) for e in encodings[1:])
        for side, encoding in zip(sides(answers), encodings[1:], strict=True):
            reason = None if fault else self._answer_fault(encoding.ids, opening)
            fault = (reason, side) if reason else fault
        return Tokens(prompt, answers, fault)

    def _answer_fault(self, ids: list[int], opening: list[int]) -> str | None:
        if ids[: len(opening)] != opening:
            return "prompt not a prefix"
        if ids[-1] != self.stop:
            return "stop token not last"
        return "stop token doubled" if ids[-2:-1] == [self.stop] else None

    def prove(self, rows: list[dict]) -> None:
        """Compare the lengths of some rows with those of their whole texts; where they differ, cut no text at all."""
        for row in rows[:PROVED]:
            texts, fault = self.texts(row)
            found = self.tokens(texts, self.encode(texts[:-1]), fault)
            if not found.fault and whole_lengths(self.tokenizer, row) != (found.prompt, *found.answers):
                self.controls, self.heads = [], {}
                return


def _parts(row: dict) -> tuple[list[dict], list[list[dict]]]:
    """The prompt of a row, and its whole conversations: one for each answer."""
    turns = row.get("messages")
    if turns:
        first = next(i for i, m in enumerate(turns) if m["role"] == "assistant")
        return turns[:first], [turns]
    return row["prompt"], [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]


def template_fault(tokenizer) -> Fault:
    """What is wrong with the template for every conversation alike: the stop token untrained, the start token twice.

    Of a template without marks for what is trained nothing can be said here; SFT refuses it.
    """
    talk = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]
    if not re.search(r"{%-?\s*generation", tokenizer.chat_template or ""):
        return None
    ids, trained = templates.conversation_ids(tokenizer, talk)
    ends = [i for i in range(len(ids)) if trained[i] and not (trained[i + 1] if i + 1 < len(ids) else 0)]
    if [ids[i] for i in ends] != [tokenizer.eos_token_id] * 2:
        return (
            "stop token untrained",
            f"what is trained ends in {tokenizer.convert_ids_to_tokens([ids[i] for i in ends])}",
        )
    return ("BOS doubled", "by the template") if ids[:2] == [tokenizer.bos_token_id] * 2 else None


def sides(answers: tuple) -> tuple[str, ...]:
    """Names of the answers of a row."""
    return ("chosen", "rejected") if len(answers) == 2 else ("answer",)


def whole_lengths(tokenizer, row: dict) -> tuple[int, ...] | None:
    """Tokens of prompt and answers with every text encoded as a whole, as TRL does."""
    asked, wholes = _parts(row)
    prompt = templates.prompt_ids(tokenizer, asked)
    encoded = [tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"] for whole in wholes]
    return len(prompt), *(len(ids) - len(prompt) for ids in encoded)


def too_long(found: Tokens, max_length: int) -> Fault:
    """What truncation at `max_length` would do to a row; None where it fits."""
    if found.prompt >= max_length:
        return "prompt too long", f"{found.prompt} tokens"
    lost = [side for side, n in zip(sides(found.answers), found.answers, strict=True) if found.prompt + n > max_length]
    longest = found.prompt + max(found.answers)
    return ("stop token cut", f"{' and '.join(lost)}: {longest} tokens") if lost else None
