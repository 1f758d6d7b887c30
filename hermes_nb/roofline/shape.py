"""The sizes of a Llama-like model and of its adapter. Lesson: 02_qlora_sft."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hermes_nb.errors import RecipeProblem

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + MLP


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


def adapter_parameters(shape: Shape, r: int, targets: Iterable[str] = ALL_LINEAR) -> int:
    """Numbers that LoRA of rank `r` on `targets` trains in the whole model."""
    return lora_parameters(linear_shapes(shape, targets), r)


def linear_parameters(shape: Shape) -> int:
    """Weights in the linear layers: those that 4-bit loading quantizes."""
    return sum(fan_in * fan_out for fan_in, fan_out in linear_shapes(shape))


def parameters(shape: Shape) -> int:
    """All weights: linear layers, two norms a layer and one at the end, embedding, and the head unless it is tied."""
    norms = (2 * shape.layers + 1) * shape.hidden
    return linear_parameters(shape) + norms + (1 if shape.tied else 2) * shape.vocab * shape.hidden


def one_layer(shape: Shape) -> Shape:
    """The same model with a single layer."""
    return replace(shape, layers=1)
