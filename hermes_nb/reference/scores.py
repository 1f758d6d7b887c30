"""Scores of whole answers, token by token, in padded batches of like length."""

from hermes_nb import templates
from hermes_nb.models import reading
from hermes_nb.runtime import give_back


def batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Row numbers in batches of like length whose padded size is at most `tokens` (one row at the least)."""
    out, widest = [[]], 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        widest = max(widest, lengths[i])
        if out[-1] and widest * (len(out[-1]) + 1) > tokens:
            out.append([])
            widest = lengths[i]
        out[-1].append(i)
    return [b for b in out if b]


def token_logps(model, rows: list[tuple[list[int], int]], tokens: int = 1024) -> list:
    """Log-probability of every token from `start` on, for rows `(ids, start)`; fp32, one tensor a row."""
    import torch

    out = [None] * len(rows)
    pad = model.config.get_text_config().pad_token_id or 0
    with reading(model):
        for batch in batches([len(ids) for ids, _ in rows], tokens):
            width = max(len(rows[i][0]) for i in batch)
            ids = torch.full((len(batch), width), pad, device=model.device)
            mask = torch.zeros_like(ids)
            for k, i in enumerate(batch):
                row = torch.tensor(rows[i][0], device=model.device)
                ids[k, : len(row)], mask[k, : len(row)] = row, 1
            hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for k, i in enumerate(batch):
                row, start = rows[i]
                # the logits at position t - 1 score the token at t
                logits = hidden[k, start - 1 : len(row) - 1].float()
                out[i] = logits.log_softmax(-1).gather(-1, ids[k, start : len(row), None]).squeeze(-1).cpu()
    give_back()
    return out


def pair_token_logps(model, tokenizer, rows, tokens: int = 1024) -> list[tuple]:
    """Log-probability (nats) of every token of the chosen and of the rejected answer; one pair of tensors a row."""
    flat = []
    for row in rows:
        prompt, chosen, rejected = templates.pair_ids(tokenizer, row)
        flat += [(prompt + chosen, len(prompt)), (prompt + rejected, len(prompt))]
    logps = token_logps(model, flat, tokens)
    return list(zip(logps[::2], logps[1::2], strict=True))


def sums(token_logps: list[tuple]) -> tuple[list[float], list[float]]:
    """Summed log-probabilities of chosen and of rejected answers from those of their tokens."""
    return [chosen.sum().item() for chosen, _ in token_logps], [rejected.sum().item() for _, rejected in token_logps]


def pair_logps(model, tokenizer, rows, tokens: int = 1024) -> tuple[list[float], list[float]]:
    """Summed log-probabilities (nats) of the chosen and of the rejected answers of `rows`."""
    return sums(pair_token_logps(model, tokenizer, rows, tokens))


def conversation_losses(model, tokenizer, rows, tokens: int = 1024) -> list[float]:
    """Mean loss (nats a token) of each conversation over its trained tokens: answers and their stop tokens."""
    import torch

    marked = [templates.conversation_ids(tokenizer, row["messages"]) for row in rows]
    logps = token_logps(model, [(ids, 1) for ids, _ in marked], tokens)
    trained = [lp[torch.tensor(mask[1:], dtype=torch.bool)] for lp, (_, mask) in zip(logps, marked, strict=True)]
    return [-row.mean().item() for row in trained]
