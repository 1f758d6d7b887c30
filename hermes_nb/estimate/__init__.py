"""What training needs before it is paid for: parameters, memory, FLOPs, time.

`ledgers` sets methods side by side; `recipe` takes a whole recipe to a GPU; `published` holds the same arithmetic
against durations that others have reported. Lesson: 02_qlora_sft.
"""

from hermes_nb.estimate.against import published
from hermes_nb.estimate.bases import SHAPES, base_shape
from hermes_nb.estimate.memory import GB, METHODS, PARTS, activations_gb, ledger, ledgers
from hermes_nb.estimate.plan import recipe, scale_for
from hermes_nb.estimate.reaching import ASSUMED, Speed, speed
from hermes_nb.estimate.rows import lengths
from hermes_nb.estimate.text import check_text, text
from hermes_nb.roofline import (
    ALL_LINEAR,
    ATTENTION,
    MISTRAL_7B,
    MLP,
    NF4_BITS,
    SMOLLM2_135M,
    Shape,
    linear_parameters,
    linear_shapes,
    lora_parameters,
    parameters,
    shape_of,
)

__all__ = [
    "ALL_LINEAR", "ASSUMED", "ATTENTION", "GB", "METHODS", "MISTRAL_7B", "MLP", "NF4_BITS", "PARTS", "SHAPES",
    "SMOLLM2_135M", "Shape", "Speed", "activations_gb", "base_shape", "check_text", "ledger", "ledgers", "lengths",
    "linear_parameters", "linear_shapes", "lora_parameters", "parameters", "published", "recipe", "scale_for",
    "shape_of", "speed", "text",
]  # fmt: skip
