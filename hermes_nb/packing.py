"""Pairs laid in one row: the prompt once, each answer seeing its prompt and itself only, nothing padded.

TRL pads chosen and rejected to one length and computes the prompt twice. Here a batch of pairs becomes one row
`prompt, chosen, rejected, prompt, chosen, ...` under a mask that keeps them apart, with positions that go on from the
prompt: every token sees what it would see alone, so the log-probabilities are the same. Lesson: 03_dpo.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packed:
    """One row of L tokens made of N pairs.

    `ids`, `positions`, `targets`: (1, L); a target is the next token of the same answer, or -100 where nothing is
    scored. `block`: (L,) number of the piece a token lies in, three for each pair. `place`: (L,) where its score
    belongs in the padded (2N, T - 1) layout, flattened; -1 where there is none.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    block: torch.Tensor
    place: torch.Tensor


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Packed:
    """Lay a padded batch of pairs in one row.

    All three are (2N, T), chosen sides first, padded on the right, `labels` -100 outside the answers, as TRL's collator
    makes them. The last token of a prompt is laid once before each answer, because it predicts the first token of both.
    Raises ValueError where the two sides of a pair have different prompts, or a row has no answer.
    """
    lengths, width = attention_mask.sum(1).tolist(), labels.shape[1]
    starts = (labels != -100).int().argmax(1).tolist()
    pieces, half = [], len(lengths) // 2
    for i in range(half):
        k, start = i + half, starts[i]
        if start == 0 or start != starts[k] or not torch.equal(input_ids[i, :start], input_ids[k, :start]):
            raise ValueError(f"pair {i}: chosen and rejected do not share a prompt.")
        pieces.append(_piece(input_ids[i], 0, start - 1, 3 * i, None))
        for row, number in ((i, 3 * i + 1), (k, 3 * i + 2)):
            pieces.append(_piece(input_ids[row], start - 1, lengths[row], number, row * (width - 1)))
    columns = [torch.cat(column) for column in zip(*pieces, strict=True)]
    ids, positions, targets, block, place = columns
    return Packed(ids[None], positions[None], targets[None], block, place)


def _piece(row: torch.Tensor, begin: int, end: int, number: int, offset: int | None):
    """Ids, positions, targets, block and place of the tokens `begin` to `end` of one row; no prompt is scored."""
    ids, positions = row[begin:end], torch.arange(begin, end, device=row.device)
    targets, place = torch.full_like(ids, -100), torch.full_like(ids, -1)
    if offset is not None:
        targets[:-1], place[:-1] = ids[1:], offset + positions[:-1]
    return ids, positions, targets, torch.full_like(ids, number), place


def mask(block: torch.Tensor, additive: bool) -> torch.Tensor:
    """Attention mask (1, 1, L, L): True where a token may look, or, `additive`, 0 there and the smallest number else.

    A token sees what stands before it in its own block, and, from an answer, the whole prompt of its pair.
    """
    before = torch.ones(len(block), len(block), dtype=torch.bool, device=block.device).tril()
    own, prompt = block[:, None] == block[None], block[None] == block[:, None] - block[:, None] % 3
    sees = (before & (own | prompt))[None, None]
    return torch.zeros(sees.shape, device=block.device).masked_fill(~sees, -torch.finfo().max) if additive else sees


def unpack(values: torch.Tensor, packed: Packed, rows: int, width: int) -> torch.Tensor:
    """Scores (1, L) of a packed row in the padded layout (`rows`, `width` - 1), 0 or False where none is."""
    scored = packed.place >= 0
    out = values.new_zeros(rows * (width - 1))
    return out.index_put((packed.place[scored],), values[0][scored]).view(rows, width - 1)


def why_not(config, longest: int) -> str | None:
    """Why a model cannot be served exactly by packed rows, in words; None where it can.

    `longest` is the length in tokens of the longest pair side.
    """
    text = config.get_text_config()
    kinds = {*(text.to_dict().get("layer_types") or ())}
    if kinds - {"full_attention", "sliding_attention"}:
        return f"its layers are not all attention ({', '.join(sorted(kinds))})"
    window = text.to_dict().get("sliding_window")
    if window and longest > window and text.to_dict().get("use_sliding_window", True):
        return f"its sliding window of {window} tokens is shorter than the longest row, {longest}"
    return None


def install(model) -> None:
    """Let a model that TRL has given its fused head (`add_fused_lm_head`) compute batches of pairs packed.

    Only calls with `fused_lm_head=True` change; generation stays as it is.
    """
    import types

    fused = model.forward
    additive = model.config._attn_implementation != "sdpa"  # sdpa takes the truth, eager adds numbers

    def forward(self, *args, fused_lm_head=False, input_ids=None, attention_mask=None, labels=None, **how):
        if not fused_lm_head or labels is None or args or len(input_ids) % 2:
            return fused(*args, fused_lm_head=fused_lm_head, input_ids=input_ids, attention_mask=attention_mask,
                         labels=labels, **how)  # fmt: skip
        packed = pack(input_ids, attention_mask, labels)
        out = fused(
            input_ids=packed.ids, attention_mask=mask(packed.block, additive), position_ids=packed.positions,
            shift_labels=packed.targets, fused_lm_head=True, **how,
        )  # fmt: skip
        fields = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")
        for name in fields:
            value = out.get(name)
            if value is not None:
                out[name] = unpack(value, packed, *input_ids.shape)
        return out

    model.forward = types.MethodType(forward, model)
