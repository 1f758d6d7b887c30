"""Adapter and base to plain weights, with a number for how faithful they are to the model that was trained.

The adapter was trained on the dequantized NF4 weights, so those are what it is merged onto: W = dequant(NF4) +
(alpha / r) B A. Merging into 4 bits would erase it: the rounding step of NF4 is larger than a DPO-sized delta.
Lesson: 04_merge.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import get_args

from hermes_nb import models, templates
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.recipes import Onto, SavedDtype
from hermes_nb.runtime import machine, need_disk, need_memory

ONTO, DTYPES = get_args(Onto), get_args(SavedDtype)


def merge(
    base: str, adapter: Path | str, out: Path | str, onto: str = "auto", dtype: str = "auto",
    max_shard_size: str = "2GB", revision: str | None = None, template: str | None = None,
) -> Path:  # fmt: skip
    """Merge `adapter` into `base` and write a plain model folder `out`: weights, tokenizer, template, stop token.

    `onto` is `dequantized` (the weights that the adapter was trained on; `auto` chooses it) or `original`; `dtype` is
    the saved format (`auto`: `choose_dtype`). Written beside `out` and renamed, so that `out` is
    whole or absent. Loads in plain `transformers`, with no quantization left in its config. Returns `out`.
    The tokenizer is the one beside the adapter; where there is none, the base's with our chat template `template`.
    Raises RecipeProblem for unknown words, FileProblem for an adapter that does not fit or when `out` is taken.
    """
    out = Path(out)
    if onto not in ONTO or dtype not in DTYPES:
        raise RecipeProblem(f"merge: onto is one of {', '.join(ONTO)}; dtype is one of {', '.join(DTYPES)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileProblem(f"{out}: exists already; delete it, or name another folder for the merged model.")
    models.check_adapter(adapter)
    tokenizer = _tokenizer(base, Path(adapter), revision, template)
    dtype = choose_dtype(machine().device) if dtype == "auto" else dtype
    model = _merged(base, adapter, onto, dtype, revision, tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    need_disk(out.parent, 1.1 * sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work:
        folder = Path(work) / "model"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        _write_tokenizer(tokenizer, Path(adapter), folder)
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    return out


def _tokenizer(base: str, adapter: Path, revision: str | None, template: str | None):
    """The tokenizer beside the adapter, else the base's with `template`."""
    from transformers import AutoTokenizer

    if (adapter / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(adapter)
    if template is None:
        raise FileProblem(f"{adapter}: no tokenizer beside the adapter; use a folder that a stage of ours has written.")
    return models.tokenizer(base, template, revision)


def _write_tokenizer(tokenizer, adapter: Path, folder: Path) -> None:
    """Copy the adapter's tokenizer files unchanged; where it has none, write those of `tokenizer`."""
    if not (adapter / "tokenizer.json").is_file():
        tokenizer.save_pretrained(folder)
        return
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)


def choose_dtype(device: str) -> str:
    """The format to save in: one whose steps are finer than a DPO-sized delta.

    bf16 keeps 8 bits of each weight and rounds most of such a delta away: of our DPO runs on the built-in model a bf16
    merge lost the learned stopping (65 % of greedy answers ended, merged 25 %). fp16 keeps 11 bits at the same size;
    a CPU computes it slowly, so there fp32.
    """
    return "float16" if device == "cuda" else "float32"


def reason(device: str) -> str:
    """The choice of `choose_dtype` and why, in one sentence."""
    why = {
        "float16": "the size of bf16 but 11 significant bits against 8, so a DPO-sized delta survives",
        "float32": "a DPO-sized delta survives, and a CPU computes fp16 slowly",
    }
    dtype = choose_dtype(device)
    return f"saved as {dtype} on {device}: {why[dtype]}"


def gigabytes(linear: float, other: float) -> dict[str, float]:
    """Memory in GB of a model with `linear` parameters in linear layers and `other` (embeddings, head): name to GB.

    NF4 with double quantization takes 4.127 bits a weight (https://arxiv.org/abs/2305.14314, section 3) and holds only
    the linear layers. The merge of today holds the whole model in 16 bits and a tenth more.
    """
    both = linear + other
    return {
        "base in 4 bits": (linear * 4.127 / 8 + 2 * other) / 1e9,
        "merged, 16 bits": 2 * both / 1e9,
        "our merge, at least": 2.2 * both / 1e9,
        "merged, 32 bits": 4 * both / 1e9,
    }


def _merged(base: str, adapter, onto: str, dtype: str, revision: str | None, tokenizer):
    """The merged model in memory, on the device, in `dtype`, with the generation config that stops."""
    import torch

    if onto == "original":
        model = models.load_plain(base, dtype, revision)
    else:
        model = models.load_4bit(base, revision=revision)
        need_memory(2.2e-9 * model.num_parameters(), f"merging {base}")
        # the sum is made in fp32 where that fits, and rounded once; else in the saved format
        fits = 4e-9 * model.num_parameters() < machine().memory_gb / 2
        model = models.dequantize(model, "float32" if fits else dtype)
    merged = models.load_adapter(model, adapter).merge_and_unload().to(getattr(torch, dtype))
    merged.config._name_or_path = merged.name_or_path = models.portable(base)
    for config in (merged.config, merged.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    # a base that samples by default would answer differently at every call
    merged.generation_config.do_sample = False
    merged.generation_config.temperature = merged.generation_config.top_p = merged.generation_config.top_k = None
    return merged


def compare_folders(part, adapter, merged, rows: dict, limit: int = 16) -> dict:
    """Measure the folder `merged` against base and adapter in 4 bits (`part`: `recipes.Model`) on held-out pairs.

    Returns `faithfulness` of the merged model, `kl_without_adapter` (the same for the bare base: what is at stake),
    and the sizes of adapter and weights in MB.
    """
    held_out = rows.get("held_out", rows["train"])
    pairs = held_out.select(range(min(limit, len(held_out))))
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    trained = models.load_adapter(models.load_4bit(part.base, revision=part.revision), adapter)
    out = faithfulness(trained, models.load_plain(str(merged), models.saved_dtype(merged)), tokenizer, pairs)
    base = models.load_4bit(part.base, revision=part.revision)
    out["kl_without_adapter"] = faithfulness(trained, base, tokenizer, pairs)["kl"]
    out["adapter_mb"] = (Path(adapter) / "adapter_model.safetensors").stat().st_size / 1e6
    out["merged_mb"] = sum(f.stat().st_size for f in Path(merged).glob("*.safetensors")) / 1e6
    return out | {"dtype": models.saved_dtype(merged)}


def faithfulness(trained, merged, tokenizer, rows) -> dict:
    """How far `merged` is from `trained` on the chosen answers of `rows`: mean KL (nats a token), top-1 agreement.

    KL(trained || merged) is taken over the whole vocabulary at every token of the answers, in fp32.
    """
    import torch

    kl, same, count = 0.0, 0, 0
    for row in rows:
        prompt, chosen, _ = templates.pair_ids(tokenizer, row)
        ids = torch.tensor([prompt + chosen], device=trained.device)
        logps = []
        for model in (trained, merged):
            with models.reading(model):
                logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0, len(prompt) - 1 : -1]
                logps.append(logits.float().log_softmax(-1).to(ids.device))
        kl += (logps[0].exp() * (logps[0] - logps[1])).sum().item()
        same += (logps[0].argmax(-1) == logps[1].argmax(-1)).sum().item()
        count += len(chosen)
    return {"kl": kl / count, "top1": same / count, "tokens": count}
