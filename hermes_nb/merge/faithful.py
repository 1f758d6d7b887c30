"""How far a merged model is from the one that was trained: what both expect at every token of held-out answers.

KL(trained || merged) over the whole vocabulary, https://en.wikipedia.org/wiki/Kullback%E2%80%93Leibler_divergence.
Lesson: 04_merge.
"""

from collections.abc import Iterable, Iterator

from hermes_nb import models, templates


def faithfulness(trained, merged, tokenizer, rows) -> dict:
    """How far `merged` is from `trained` on the chosen answers of `rows`.

    Returns `kl` (nats a token, mean), `top1` (share of the tokens where both think the same one the likeliest) and
    `tokens`.
    """
    return divergence(expected(trained, tokenizer, rows), expected(merged, tokenizer, rows))


def expected(model, tokenizer, rows) -> Iterator:
    """Log-probabilities of every token of the vocabulary, at each token of the chosen answer of each row.

    Yields a tensor (tokens, vocabulary) a row, fp32, on the CPU; computed in training's arithmetic.
    """
    for row in rows:
        yield _read(model, tokenizer, row)


def _read(model, tokenizer, row):
    import torch

    prompt, chosen, _ = templates.pair_ids(tokenizer, row)
    ids = torch.tensor([prompt + chosen], device=model.device)
    with models.reading(model):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        return logits.float().log_softmax(-1).cpu()


def divergence(trained: Iterable, merged: Iterable) -> dict:
    """`kl`, `top1` and `tokens` of two readings as `expected` gives them, row by row."""
    kl, same, count = 0.0, 0, 0
    for one, two in zip(trained, merged, strict=True):
        kl += (one.exp() * (one - two)).sum().item()
        same += (one.argmax(-1) == two.argmax(-1)).sum().item()
        count += len(one)
    return {"kl": kl / count, "top1": same / count, "tokens": count}
