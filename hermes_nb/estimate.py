"""What training needs before it is paid for: parameters of a model and of its adapter, memory by method.

Byte counts: ZeRO, https://arxiv.org/abs/1910.02054, section 3.1, and QLoRA, https://arxiv.org/abs/2305.14314, section
3. Lesson: 02_qlora_sft.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hermes_nb.errors import RecipeProblem

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + MLP
METHODS = ("full", "lora", "qlora")
PARTS = ("weights", "adapter", "gradient", "optimizer", "activations")
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # 4.127 with double quantization
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like model: numbers of its config, `kv` is the width of k_proj and v_proj."""

    name: str
    hidden: int
    layers: int
    kv: int
    intermediate: int
    vocab: int
    tied: bool  # the head shares the embedding's weights


# config.json of mistralai/Mistral-7B-v0.1: 32 heads of 128, 8 of them for k and v
MISTRAL_7B = Shape("Mistral-7B", 4096, 32, 1024, 14336, 32000, False)
# config.json of HuggingFaceTB/SmolLM2-135M-Instruct: 9 heads of 64, 3 of them for k and v
SMOLLM2_135M = Shape("SmolLM2-135M", 576, 30, 192, 1536, 49152, True)


def shape_of(config, name: str = "") -> Shape:
    """The shape of a loaded model from its transformers `config` (Llama, Mistral)."""
    head = config.hidden_size // config.num_attention_heads
    return Shape(
        name, config.hidden_size, config.num_hidden_layers, head * config.num_key_value_heads,
        config.intermediate_size, config.vocab_size, config.tie_word_embeddings,
    )  # fmt: skip


def linear_shapes(shape: Shape, targets: Iterable[str] = ALL_LINEAR) -> list[tuple[int, int]]:
    """`(in, out)` of every linear layer that `targets` names, over all layers of the model; the head is not among them.

    Raises RecipeProblem for a target that such a model does not have.
    """
    h, kv, wide = shape.hidden, shape.kv, shape.intermediate
    one = {
        "q_proj": (h, h), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (h, h),
        "gate_proj": (h, wide), "up_proj": (h, wide), "down_proj": (wide, h),
    }  # fmt: skip
    unknown = [t for t in targets if t not in one]
    if unknown:
        raise RecipeProblem(f"no linear layer {unknown[0]!r}; there are {', '.join(one)}.")
    return [one[t] for t in targets] * shape.layers


def lora_parameters(shapes: Iterable[tuple[int, int]], r: int) -> int:
    """Numbers that LoRA trains: A is r x in and B is out x r, so r (in + out) a layer; `shapes` are `(in, out)`.

    https://arxiv.org/abs/2106.09685, section 4.1.
    """
    return sum(r * (fan_in + fan_out) for fan_in, fan_out in shapes)


def linear_parameters(shape: Shape) -> int:
    """Weights in the linear layers: those that 4-bit loading quantizes."""
    return sum(fan_in * fan_out for fan_in, fan_out in linear_shapes(shape))


def parameters(shape: Shape) -> int:
    """All weights: linear layers, two norms a layer and one at the end, embedding, and the head unless it is tied."""
    norms = (2 * shape.layers + 1) * shape.hidden
    return linear_parameters(shape) + norms + (1 if shape.tied else 2) * shape.vocab * shape.hidden


def activations_gb(shape: Shape, tokens: int, checkpointing: bool = True) -> float:
    """GB of activations for `tokens` tokens at once: a rough estimate, good to a factor of two.

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
