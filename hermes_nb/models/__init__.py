"""The base in 4 bits, its adapters, and the guards against traps in today's stack. Lessons: 00_tour, 02_qlora_sft."""

from hermes_nb.models.adapters import (
    active,
    add_lora,
    check_adapter,
    keep_fp32,
    load_adapter,
    load_adapters,
    moved,
    portable,
    save_adapter,
    snapshot,
)
from hermes_nb.models.builtin import BUILTIN, builtin
from hermes_nb.models.quantized import (
    dequantize,
    guard_cpu_gradients,
    load_4bit,
    load_plain,
    nf4_config,
    reading,
    saved_dtype,
    tokenizer,
)
from hermes_nb.models.shaped import random_4bit
from hermes_nb.models.tokenizers import add_sentencepiece, plain_class, save_tokenizer

__all__ = [
    "BUILTIN",
    "active",
    "add_lora",
    "add_sentencepiece",
    "builtin",
    "check_adapter",
    "dequantize",
    "guard_cpu_gradients",
    "keep_fp32",
    "load_4bit",
    "load_adapter",
    "load_adapters",
    "load_plain",
    "moved",
    "nf4_config",
    "plain_class",
    "portable",
    "random_4bit",
    "reading",
    "save_adapter",
    "save_tokenizer",
    "saved_dtype",
    "snapshot",
    "tokenizer",
]
