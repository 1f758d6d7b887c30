"""What training must compute and hold at least, and what a GPU can do at best: arithmetic alone, no torch.

Lessons: 02_qlora_sft, 03_dpo.
"""

from hermes_nb.roofline.flops import (
    Pair,
    Work,
    backward,
    conversations,
    dpo_flops,
    forward,
    packed,
    padded,
    reference_flops,
    row,
    sft_flops,
    token,
    training,
)
from hermes_nb.roofline.gpus import GPUS, Gpu, dequantization_bytes, dequantization_seconds, gpu, gpu_of, share
from hermes_nb.roofline.memory import (
    NF4_BITS,
    activation_bytes,
    adapter_bytes,
    fits,
    passing_bytes,
    step_bytes,
    tokens_that_fit,
    weight_bytes,
)
from hermes_nb.roofline.shape import (
    ALL_LINEAR,
    ATTENTION,
    MISTRAL_7B,
    MLP,
    SMOLLM2_135M,
    Shape,
    adapter_parameters,
    linear_parameters,
    linear_shapes,
    lora_parameters,
    parameters,
    shape_of,
)

__all__ = [
    "ALL_LINEAR", "ATTENTION", "GPUS", "Gpu", "MISTRAL_7B", "MLP", "NF4_BITS", "Pair", "SMOLLM2_135M", "Shape", "Work",
    "activation_bytes", "adapter_bytes", "adapter_parameters", "backward", "conversations", "dequantization_bytes",
    "dequantization_seconds", "dpo_flops", "fits", "forward", "gpu", "gpu_of", "linear_parameters", "linear_shapes",
    "lora_parameters", "packed", "padded", "parameters", "passing_bytes", "reference_flops", "row", "sft_flops",
    "shape_of", "share", "step_bytes", "token", "tokens_that_fit", "training", "weight_bytes",
]  # fmt: skip
