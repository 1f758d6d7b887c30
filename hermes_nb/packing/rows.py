"""A padded batch laid in one row, and its scores laid back."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packed:
    """One row of L tokens made of the tokens of a padded batch (R, T), none of them padding.

    `ids`, `positions`: (1, L). `source`: (L,) place of each token in the flattened batch. `take`: (R * T,) place in the
    row of each token of the batch, a prompt's second copy pointing at its first; any token where it is padded.
    `block`: (L,) the piece that a token lies in: 3 i for the prompt of pair i (or for row i), 3 i + 1 and 3 i + 2 for
    its answers. `scored`: (S,) tokens of the row whose next token is scored, `targets` (1, S) that next token, `place`
    (S,) where the score belongs in the flattened (R, T - 1) layout.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    source: torch.Tensor
    take: torch.Tensor
    block: torch.Tensor
    scored: torch.Tensor
    targets: torch.Tensor
    place: torch.Tensor
    rows: int
    width: int


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Packed:
    """Lay a padded batch of N pairs in one row, each prompt once.

    All three are (2N, T), chosen sides first, padded on the right, `labels` -100 outside the answers, as TRL's collator
    makes them. The last token of a prompt is laid once before each answer, because it predicts the first token of both.
    Raises ValueError where the two sides of a pair have different prompts, or a row has no answer.
    """
    lengths, starts = attention_mask.sum(1).tolist(), (labels != -100).int().argmax(1).tolist()
    half, pieces = len(lengths) // 2, []
    for i in range(half):
        k, start = i + half, starts[i]
        if 0 in (start, starts[k]):
            raise ValueError(f"pair {i}: an answer has no token, or stands at the very beginning.")
        if start != starts[k] or not torch.equal(input_ids[i, :start], input_ids[k, :start]):
            raise ValueError(f"pair {i}: chosen and rejected do not share a prompt.")
        pieces += [(i, 0, start - 1, 3 * i)]
        pieces += [(row, start - 1, lengths[row], 3 * i + side) for side, row in ((1, i), (2, k))]
    return _lay(input_ids, labels, pieces, {half + i: i for i in range(half)})


def pack_rows(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Packed:
    """Lay a padded batch of conversations, all (R, T) and padded on the right, in one row, each seeing itself only."""
    lengths = attention_mask.sum(1).tolist()
    return _lay(input_ids, labels, [(i, 0, n, 3 * i) for i, n in enumerate(lengths)], {})


def _lay(input_ids, labels, pieces: list[tuple[int, int, int, int]], twins: dict[int, int]) -> Packed:
    """Lay pieces `(batch row, begin, end, block)` one after another; `twins` maps a row to the one with its prompt."""
    (rows, width), device = input_ids.shape, input_ids.device
    source = torch.cat([torch.arange(row * width + begin, row * width + end) for row, begin, end, _ in pieces])
    block = torch.cat([torch.full((end - begin,), number) for _, begin, end, number in pieces])
    take = torch.arange(rows * width) % len(source)  # padding takes this token or that: nobody looks at it
    take[source] = torch.arange(len(source))
    for row, begin, _, _ in pieces:
        if row in twins and begin:
            twin = twins[row] * width
            take[row * width : row * width + begin] = take[twin : twin + begin]
    source, block, take = source.to(device), block.to(device), take.to(device)
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).flatten()[source]
    scored = (following != -100).nonzero().squeeze(1)
    row, position = source // width, source % width
    return Packed(
        ids=input_ids.flatten()[source][None], positions=position[None], source=source, take=take, block=block,
        scored=scored, targets=following[scored][None], place=(row * (width - 1) + position)[scored],
        rows=rows, width=width,
    )  # fmt: skip


def unpack(scores: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Scores (1, S) of a packed row in the padded layout (R, T - 1), 0 or False where nothing is scored."""
    out = scores.new_zeros(packed.rows * (packed.width - 1))
    return out.index_put((packed.place,), scores[0]).view(packed.rows, packed.width - 1)


def length(prompt: int, chosen: int, rejected: int) -> int:
    """Tokens of a row that one pair takes: the prompt once, its last token a second time."""
    return prompt + chosen + rejected + 1
