"""Bytes that a QLoRA step takes beside the weights, counted tensor by tensor. Lesson: 02_qlora_sft.

For Llama-like models in 16-bit autocast with PEFT's fp32 adapters, attention that stores no scores, and a head that
scores the answers in fp32, tile by tile, as transformers 5.23, peft 0.21 and trl 1.16 compute.
tests/test_roofline.py compares the count with the tensors that autograd keeps.
"""

from collections.abc import Iterable

from hermes_nb.roofline.shape import (
    ALL_LINEAR,
    Shape,
    adapter_parameters,
    linear_parameters,
    linear_shapes,
    one_layer,
    parameters,
)

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # 4.127 with double quantization
TILE_TOKENS, TILE_VOCAB = 4096, 32768  # of trl 1.16's head
ADAPTER_BYTES = 4 + 4 + 8  # fp32 number, gradient, two moments of AdamW


def weight_bytes(shape: Shape) -> float:
    """The base on the device: linear layers in NF4, the rest (embedding, norms, head) in 16 bits."""
    linear = linear_parameters(shape)
    return linear * NF4_BITS / 8 + 2 * (parameters(shape) - linear)


def adapter_bytes(shape: Shape, rank: int, targets: Iterable[str] = ALL_LINEAR) -> float:
    """The adapter in fp32 with its gradient and AdamW's moments."""
    return ADAPTER_BYTES * adapter_parameters(shape, rank, tuple(targets))


def _layer(shape: Shape, tokens: int, rank: int, targets: tuple[str, ...], masked: bool) -> float:
    """Bytes that one layer keeps for its backward pass."""
    h, kv, wide = shape.hidden, shape.kv, shape.intermediate
    norms = 2 * (4 * h + 4)  # the input in fp32 and its scale, twice
    attention = 2 * (2 * h + 2 * (h if masked else kv))  # q, result, k, v; a mask makes sdpa repeat k and v
    mlp = 2 * 3 * wide  # gate before and after its activation, up
    reads = linear_shapes(one_layer(shape), targets)
    lora = 2 * sum(fan_in + rank for fan_in, _ in reads)  # each adapted layer keeps its own 16-bit copy of its input
    copies = 2 * adapter_parameters(one_layer(shape), rank, targets)  # the adapter in 16 bits
    return tokens * (norms + attention + mlp + lora) + copies + (2 * tokens**2 if masked else 0)


def activation_bytes(
    shape: Shape, tokens: int, *, scored: int = 0, rank: int = 16, targets: Iterable[str] = ALL_LINEAR,
    checkpointing: bool = False, masked: bool = False,
) -> float:  # fmt: skip
    """Bytes kept for the backward pass of `tokens` tokens in one row, `scored` of them answers.

    With `checkpointing` each layer keeps its 16-bit input, and one layer at a time is computed again in full.
    `masked`: attention gets a dense mask of its own (tokens x tokens), of which every layer keeps a 16-bit copy.
    """
    layer = _layer(shape, tokens, rank, tuple(targets), masked)
    kept = layer + 2 * shape.hidden * shape.layers * tokens if checkpointing else layer * shape.layers
    return kept + 4 * shape.hidden * scored + (4 * shape.hidden * tokens if checkpointing else 0)


def passing_bytes(shape: Shape, tokens: int, *, scored: int = 0) -> float:
    """Bytes that come and go in the backward pass, at their largest.

    Either the head in fp32 (one tile of logits, its part of the weights, the gradient of its input), or the widest
    layer: its weights in 16 bits, and about 10 bytes a token and unit for gradients, some of them in fp32 for the
    adapter. With it `step_bytes` lies 1 to 6 % above the peaks that torch's profiler saw of small models without a head
    on a CPU, in NF4 and in 16 bits, with checkpointing and without.
    """
    words = min(shape.vocab, TILE_VOCAB)
    head = 4 * (min(scored, TILE_TOKENS) * words + words * shape.hidden + shape.hidden * scored)
    return max(head, 2 * shape.hidden * shape.intermediate + 10 * shape.intermediate * tokens)


def step_bytes(shape: Shape, tokens: int, *, scored: int = 0, **how) -> float:
    """Bytes of a training step beside weights, adapter and optimizer; `how` as in `activation_bytes`."""
    return activation_bytes(shape, tokens, scored=scored, **how) + passing_bytes(shape, tokens, scored=scored)


def fits(shape: Shape, tokens: int, free_bytes: float, *, scored: int = 0, **how) -> bool:
    """Whether a row of `tokens` tokens can be trained in `free_bytes`, those that weights and optimizer leave."""
    return step_bytes(shape, tokens, scored=scored, **how) <= free_bytes


def tokens_that_fit(shape: Shape, free_bytes: float, *, answers: float = 1.0, **how) -> int:
    """The longest row, in tokens, that can be trained in `free_bytes`; the share `answers` of it is scored.

    0 where not even one token fits. `how` as in `activation_bytes`.
    """

    def small_enough(n: int) -> bool:
        return fits(shape, n, free_bytes, scored=round(answers * n), **how)

    low, high = 0, 1
    while small_enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if small_enough(middle) else (low, middle)
    return low
