"""Three ways to let every token of a packed row see its own prompt and answer only; all compute the same numbers.

`gather`: queries, keys and values are laid back into the padded batch for the attention alone, where a causal kernel
without a mask serves them; linear layers, most of the work, still see no padding and no prompt twice. `dense`: a mask
of L x L, which every model understands and whose cost is the square of the row. `flex`: FlexAttention with a mask of
blocks (https://arxiv.org/abs/2412.05496), on CUDA from capability 8.0 on.
"""

import torch

from hermes_nb.packing.rows import Packed

KINDS = ("gather", "dense", "flex")
NAME = "hermes_nb_packed"  # under which transformers knows the function below
TILE = 128  # FlexAttention's blocks


def sees(block: torch.Tensor):
    """Function `(batch, head, query, key) -> bool` for a row whose tokens lie in the pieces `block` (L,).

    A token sees what stands before it in its own piece, and, from an answer, the whole prompt of its pair.
    """

    def allowed(batch, head, query, key):
        own, theirs = block[query], block[key]
        return (query >= key) & ((own == theirs) | (theirs == own - own % 3))

    return allowed


def mask(block: torch.Tensor, additive: bool = False) -> torch.Tensor:
    """Attention mask (1, 1, L, L): True where a token may look; `additive`: 0 there and the smallest number else."""
    at = torch.arange(len(block), device=block.device)
    allowed = sees(block)(0, 0, at[:, None], at[None])[None, None]
    if not additive:
        return allowed
    return torch.zeros(allowed.shape, device=block.device).masked_fill(~allowed, -torch.finfo().max)


def block_mask(block: torch.Tensor):
    """FlexAttention's mask of the same; a token past the end, where a last tile is not full, sees nothing."""
    from torch.nn.attention.flex_attention import create_block_mask

    size = len(block)
    return create_block_mask(sees(block), None, None, size, size, device=block.device, BLOCK_SIZE=TILE)


def grouped(key: torch.Tensor) -> bool:
    """Whether a fast kernel takes fewer heads of keys than of queries here.

    On CUDA below capability 8.0 only the slow one does, which stores the scores of all heads
    (https://github.com/huggingface/transformers/issues/48633); there keys and values are repeated.
    """
    return key.device.type != "cuda" or torch.cuda.get_device_capability(key.device) >= (8, 0)


def attend(module, query, key, value, attention_mask, packed: Packed | None = None, **how):
    """Attention of one layer, (1, heads, L, width of a head) to (1, L, heads, width), as transformers calls it.

    Without `packed` it is transformers' own `sdpa`, or FlexAttention where the mask is one of blocks.
    """
    from torch.nn.attention.flex_attention import BlockMask
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **how)
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    if how.get("softcap") is not None:
        raise ValueError("soft capping is not served by this attention")
    shape, heads = (packed.rows, packed.width), query.shape[1] // key.shape[1]
    sides = [t[0].index_select(1, packed.take).unflatten(1, shape).transpose(0, 1) for t in (query, key, value)]
    if heads > 1 and not grouped(key):
        sides[1:] = [t.repeat_interleave(heads, 1) for t in sides[1:]]
    out = torch.nn.functional.scaled_dot_product_attention(
        *sides, dropout_p=how.get("dropout", 0.0), scale=how.get("scaling"),
        enable_gqa=sides[1].shape[1] < query.shape[1],
        is_causal=True,  # padding stands on the right, where no real token looks
    )  # fmt: skip
    return out.transpose(1, 2).flatten(0, 1).index_select(0, packed.source)[None], None


def register() -> str:
    """Make `attend` known to transformers, with the masks of `sdpa` for all that is not packed; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
