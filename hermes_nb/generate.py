"""Answers in batches, or one as it grows; greedy, sampled, or as a card samples. Lessons: 00_tour, 05_evaluate."""

import time
from dataclasses import dataclass

from hermes_nb import templates
from hermes_nb.errors import DataProblem
from hermes_nb.models import reading
from hermes_nb.runtime import give_back

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
HERMES = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}  # gauss5930/Hermes README, 256 tokens
PAUSE = 0.1  # seconds between two looks at a growing answer


@dataclass(frozen=True)
class Answer:
    """One generated answer; `stops` says that it ended in the stop token, `tokens` counts it without that one."""

    text: str
    stops: bool
    tokens: int


def answers(
    model, tokenizer, prompts, max_new_tokens: int = 96, how: dict = GREEDY, seed: int = 0, batch_size: int = 60
):
    """Answer `prompts` (lists of messages) in batches; returns `Answer`s in the order of the prompts.

    Prompts are rendered by the training template and padded on the left. Sampling depends on `seed` and on the batch
    size. The stop token is the template's; an answer that reaches `max_new_tokens` has `stops=False`.
    """
    import torch

    ids = [templates.prompt_ids(tokenizer, p) for p in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = [None] * len(ids)
    torch.manual_seed(seed)
    with reading(model):
        for at in range(0, len(order), batch_size):
            batch = order[at : at + batch_size]
            for i, new in zip(
                batch, _generate(model, tokenizer, [ids[i] for i in batch], max_new_tokens, how), strict=True
            ):
                out[i] = _answer(tokenizer, new)
            give_back()
    return out


def stream(
    model, tokenizer, messages: list[dict], say, max_new_tokens: int = 128, temperature: float = 1.0, seed: int = 0,
    stop=None,
) -> Answer:  # fmt: skip
    """Answer one conversation and call `say(text so far)` as the answer grows; returns the `Answer`.

    `messages` are turns, a system turn included. `say` is called at most 10 times a second, never with half a
    character, and at the end once more with the whole text. `temperature` 0 is greedy, else nothing is cut off the
    distribution. `stop()` is asked after every token; True ends the answer there, with `stops=False`. What `say` and
    `stop` raise comes through. Raises DataProblem for a negative temperature. Lesson: 05_evaluate.
    """
    import torch

    if temperature < 0:
        raise DataProblem(f"temperature {temperature} is below 0; 0 is greedy, 1 is what the model learned.")
    how = SAMPLED | {"temperature": float(temperature)} if temperature else GREEDY
    ids = templates.prompt_ids(tokenizer, messages)
    with reading(model), torch.random.fork_rng():  # whoever draws numbers meanwhile must not notice
        torch.manual_seed(seed)
        watched = how | _watched(tokenizer, say, stop)
        (new,) = _generate(model, tokenizer, [ids], max_new_tokens, watched)
    give_back()
    answer = _answer(tokenizer, new)
    say(answer.text)
    return answer


def _watched(tokenizer, say, stop) -> dict:
    """Arguments of `generate` that report the growing text to `say`, and ask `stop` after every token."""
    from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

    class Growing(BaseStreamer):
        def __init__(self):
            self.new, self.said, self.said_at = None, "", float("-inf")

        def put(self, value):
            if self.new is None:  # the prompt comes first
                self.new = []
                return
            self.new += value.flatten().tolist()
            if time.monotonic() - self.said_at >= PAUSE:
                self.tell()

        def tell(self):
            # a token may end within a character; its bytes decode to U+FFFD until the rest is there
            text = _answer(tokenizer, self.new).text.rstrip("\ufffd").rstrip()
            if text != self.said:
                say(text)
                self.said, self.said_at = text, time.monotonic()

        def end(self):
            pass

    class Asking(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return bool(stop())

    return {"streamer": Growing()} | ({"stopping_criteria": StoppingCriteriaList([Asking()])} if stop else {})


def _generate(model, tokenizer, ids: list[list[int]], max_new_tokens: int, how: dict) -> list[list[int]]:
    import torch

    width = max(map(len, ids))
    padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    out = model.generate(
        input_ids=padded, attention_mask=mask, max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, use_cache=True, **how,
    )  # fmt: skip
    return out[:, width:].tolist()


def _answer(tokenizer, new: list[int]) -> Answer:
    stops = tokenizer.eos_token_id in new
    if stops:
        new = new[: new.index(tokenizer.eos_token_id)]
    return Answer(tokenizer.decode(new, skip_special_tokens=True).strip(), stops, len(new))


def prompt_of(row: dict) -> list[dict]:
    """The messages to answer: a pair's prompt, or a conversation up to its first answer."""
    if "prompt" in row and isinstance(row["prompt"], list):
        return row["prompt"]
    first = next(i for i, m in enumerate(row["messages"]) if m["role"] == "assistant")
    return row["messages"][:first]
