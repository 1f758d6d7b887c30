"""Memory of training by method, full, LoRA and QLoRA side by side: a ledger of GB.

Byte counts: ZeRO, https://arxiv.org/abs/1910.02054, section 3.1, and QLoRA, https://arxiv.org/abs/2305.14314, section
3. Lesson: 02_qlora_sft.
"""

from hermes_nb.errors import RecipeProblem
from hermes_nb.roofline import NF4_BITS, Shape, linear_parameters, linear_shapes, lora_parameters, parameters

METHODS = ("full", "lora", "qlora")
PARTS = ("weights", "adapter", "gradient", "optimizer", "activations")
GB = 1e9


def activations_gb(shape: Shape, tokens: int, checkpointing: bool = True) -> float:
    """GB of activations for `tokens` tokens at once, whatever the method: good to a factor of two.

    For QLoRA as it runs here `roofline.activation_bytes` counts tensor by tensor.
    A layer keeps about 34 bytes a token and hidden unit in 16 bits, attention scores left out (they are recomputed
    by today's kernels; https://arxiv.org/abs/2205.05198, section 4.1). With gradient checkpointing only each
    layer's input (2 bytes) and one whole layer are kept. The logits and their gradient come in fp32 on top.
    """
    unit = tokens * shape.hidden
    inside = unit * (2 * shape.layers + 34) if checkpointing else unit * 34 * shape.layers
    return (inside + tokens * shape.vocab * 8) / GB


def ledger(
    parameters: int, adapter_parameters: int, method: str, activations_gb: float = 0.0, unquantized: int = 0
) -> dict[str, float]:
    """GB of memory that training takes, part by part: `weights, adapter, gradient, optimizer, activations`.

    Bytes a parameter. `full`: 2 (16-bit weight) + 2 (16-bit gradient) + 12 (AdamW in mixed precision: fp32 master copy
    and two fp32 moments) = 16, as ZeRO counts. `lora`: 2 for the frozen weights; the adapter in fp32 takes 4 + 4
    (gradient) + 8 (two moments; it is its own master copy). `qlora`: the same adapter, 4.127 / 8 for the frozen
    weights; `unquantized` of them (embedding, norms, head) stay at 2. Raises RecipeProblem for another method.
    """
    if method not in METHODS:
        raise RecipeProblem(f"no method {method!r}; there are {', '.join(METHODS)}.")
    if method == "full":
        parts = (2 * parameters, 0, 2 * parameters, 12 * parameters)
    else:
        quantized = (parameters - unquantized) * NF4_BITS / 8 + 2 * unquantized
        frozen = quantized if method == "qlora" else 2 * parameters
        parts = (frozen, 4 * adapter_parameters, 4 * adapter_parameters, 8 * adapter_parameters)
    return dict(zip(PARTS, [*(p / GB for p in parts), activations_gb], strict=True))


def ledgers(shape: Shape, r: int, tokens: int, checkpointing: bool = True) -> dict[str, dict[str, float]]:
    """The `ledger` of each method for one model, LoRA of rank `r` on all linear layers, `tokens` tokens at once."""
    total, adapter = parameters(shape), lora_parameters(linear_shapes(shape), r)
    rest, active = total - linear_parameters(shape), activations_gb(shape, tokens, checkpointing)
    return {method: ledger(total, adapter, method, active, rest) for method in METHODS}
