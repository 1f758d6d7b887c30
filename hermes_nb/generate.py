"""Batched answers: greedy, sampled at temperature 1, or as Hermes-7b's card samples. Lessons: 00_tour, 05_evaluate."""

from dataclasses import dataclass

from hermes_nb import templates
from hermes_nb.models import reading
from hermes_nb.runtime import give_back

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
HERMES = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.95}  # gauss5930/Hermes README, 256 tokens


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
