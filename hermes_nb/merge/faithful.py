"""How far a merged model is from the one that was trained: what both expect at every token of held-out answers.

KL(trained || merged) over the whole vocabulary, https://en.wikipedia.org/wiki/Kullback%E2%80%93Leibler_divergence.
Lesson: 04_merge.
"""

import sys
from collections.abc import Iterable, Iterator

from hermes_nb import models, templates
from hermes_nb.errors import DataProblem

AT_ONCE = 64  # tokens whose whole vocabulary is held in fp64


def faithfulness(trained, merged, tokenizer, rows) -> dict:
    """How far `merged` is from `trained` on the chosen answers of `rows`.

    Returns `kl` (nats a token, mean), `top1` (share of the tokens where both think the same one the likeliest) and
    `tokens`.
    """
    return divergence(expected(trained, tokenizer, rows), expected(merged, tokenizer, rows))


def expected(model, tokenizer, rows, most: int = sys.maxsize) -> Iterator:
    """Log-probabilities of every token of the vocabulary, at each token of the chosen answer of each row.

    Yields a tensor (tokens, vocabulary) a row, fp32, on the CPU; computed in training's arithmetic. After `most` tokens
    it ends, in the middle of a row if need be.
    """
    for row in rows:
        read = _read(model, tokenizer, row, most)
        yield read
        most -= len(read)
        if most <= 0:
            return


def _read(model, tokenizer, row, most: int):
    import torch

    prompt, chosen, _ = templates.pair_ids(tokenizer, row)
    ids = torch.tensor([prompt + chosen], device=model.device)
    with models.reading(model):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1][:most]
        return logits.float().log_softmax(-1).cpu()


def divergence(trained: Iterable, merged: Iterable) -> dict:
    """`kl`, `top1` and `tokens` of two readings as `expected` gives them, row by row.

    Summed in fp64; the readings themselves are rounded, so of two equal models `kl` may be a little below 0.
    Raises DataProblem when there is no token.
    """
    import torch

    kl, same, count = 0.0, 0, 0
    for one, two in zip(trained, merged, strict=True):
        for p, q in zip(one.split(AT_ONCE), two.split(AT_ONCE), strict=True):
            p, q = p.double(), q.double()
            kl += torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum().item()  # 0 log 0 is 0
        same += (one.argmax(-1) == two.argmax(-1)).sum().item()
        count += len(one)
    if not count:
        raise DataProblem("divergence: no token to compare the two models on; give rows with answers.")
    return {"kl": kl / count, "top1": same / count, "tokens": count}
