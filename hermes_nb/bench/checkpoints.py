"""Checkpoints of a given shape made on the spot: bf16 weights drawn from N(0, 0.02), an adapter of a DPO-sized delta.

One block of random numbers is written again and again, from another place each time: the sizes are those of a real
model, and the time goes into what is measured.
"""

from dataclasses import replace
from pathlib import Path

from hermes_nb import roofline
from hermes_nb.merge import stored
from hermes_nb.merge.stored import Entry

SHARD = 4_000_000_000  # bytes of a file at most, unless one tensor is larger


def make_base(folder: Path, shape: roofline.Shape) -> Path:
    """A Mistral-like model of `shape` in bf16, in files of at most 4 GB, with the built-in model's tokenizer."""
    from transformers import AutoTokenizer, MistralConfig

    from hermes_nb import models, runs

    folder.mkdir(parents=True)
    head = 64 if shape.hidden < 4096 else 128
    MistralConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.hidden // head,
        num_key_value_heads=shape.kv // head, intermediate_size=shape.intermediate, vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied, dtype="bfloat16", architectures=["MistralForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    files, place = [{}], folder / "model.safetensors"
    for name, size in _tensors(shape).items():
        entry = Entry(place, "BF16", size)
        if files[-1] and entry.size + sum(other.size for other in files[-1].values()) > SHARD:
            files.append({})
        files[-1][name] = entry
    weight_map = {}
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else place.name
        stored.write(folder / name, tensors, _numbers(tensors))
        weight_map |= dict.fromkeys(tensors, name)
    if len(files) > 1:
        size = {"total_size": sum(entry.size for tensors in files for entry in tensors.values())}
        runs.write_json(folder / stored.INDEX, {"metadata": size, "weight_map": weight_map})
    AutoTokenizer.from_pretrained(models.builtin()).save_pretrained(folder)
    return folder


def _tensors(shape: roofline.Shape) -> dict[str, tuple[int, ...]]:
    """Name to shape of every weight, in the order of the model."""
    out = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        for module, (fan_in, fan_out) in _linear(shape).items():
            out[f"model.layers.{layer}.{module}.weight"] = (fan_out, fan_in)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{layer}.{norm}.weight"] = (shape.hidden,)
    return out | {"model.norm.weight": (shape.hidden,)} | (
        {} if shape.tied else {"lm_head.weight": (shape.vocab, shape.hidden)}
    )  # fmt: skip


def _linear(shape: roofline.Shape) -> dict[str, tuple[int, int]]:
    """Module name in a layer to (in, out)."""
    sizes = roofline.linear_shapes(replace(shape, layers=1))
    return {
        f"{'self_attn' if name in roofline.ATTENTION else 'mlp'}.{name}": size
        for name, size in zip(roofline.ALL_LINEAR, sizes, strict=True)
    }


def _numbers(tensors: dict[str, Entry]):
    """The numbers of one file, in pieces."""
    import torch

    pool = (0.02 * torch.randn(2**22 + 4096, generator=torch.Generator().manual_seed(0))).bfloat16()
    for number, entry in enumerate(tensors.values()):
        left = entry.size // 2
        while left:
            count = min(left, 2**22)
            yield pool[number % 4096 :][:count]
            left -= count


def make_adapter(folder: Path, shape: roofline.Shape, rank: int) -> Path:
    """A LoRA of `rank` on all linear layers, as PEFT writes it, in fp32; its delta is about 1/1,000 of the weights."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    make, tensors = torch.Generator().manual_seed(1), {}
    for layer in range(shape.layers):
        for module, (fan_in, fan_out) in _linear(shape).items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, fan_in, generator=make) / fan_in**0.5
            tensors[f"{name}.lora_B.weight"] = 1e-3 * torch.randn(fan_out, rank, generator=make) / rank**0.5
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(roofline.ALL_LINEAR), task_type="CAUSAL_LM"
    ).save_pretrained(folder)
    return folder
