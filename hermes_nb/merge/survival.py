"""How much of an adapter's delta is left once a number format has rounded the sum.

A merged weight is saved as round(W + delta). Where the format's steps are wider than the delta, W comes back unchanged
and what was trained is gone. Lesson: 04_merge.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import stored
from hermes_nb.merge.changes import PREFIX
from hermes_nb.merge.moving import moving
from hermes_nb.merge.sums import restored
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.models.nf4 import BLOCK
from hermes_nb.models.quantized import locate

FORMATS = ("float32", "float16", "bfloat16", "nf4")


def delta(A, B, alpha: float, r: float):
    """What LoRA adds to a weight: alpha/r * B @ A, of shape (out, in) in fp32.

    `A` is (r, in), `B` is (out, r). https://arxiv.org/abs/2106.09685, section 4.1.
    """
    return alpha / r * (B.float() @ A.float())


def rounded(weight, dtype: str):
    """`weight` written in `dtype` (one of FORMATS) and read back, in fp32; same shape.

    nf4 is what the base was loaded in: blocks of 64 weights, double quantization, arithmetic of the scales in fp32.
    Raises RecipeProblem for another format.
    """
    import torch

    if dtype not in FORMATS:
        raise RecipeProblem(f"no number format {dtype!r} here; there are {', '.join(FORMATS)}.")
    if dtype != "nf4":
        return weight.to(getattr(torch, dtype)).float()
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight.float().contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=True
    )
    return functional.dequantize_4bit(packed, state).float()


def survives(weight, delta, dtype: str) -> dict[str, float]:
    """What is left of `delta` after rounding: (round(weight + delta) - round(weight)) against `delta`.

    Both are (out, in). Returns `cosine` (1: same direction), `unchanged` (share of the entries where the delta left
    no trace), `error` (norm of the difference over the norm of delta) and `relative_delta` (norm of delta over that of
    weight). For a delta of zeros cosine and error are 0. In nf4 few entries stay as they were, though the delta is
    lost: the blocks' scales are written anew, and all 64 weights of a block move with them.
    """
    blocks = list(stored.row_blocks(tuple(weight.shape)))
    return left(lambda: ((weight[i:j].float(), delta[i:j].float()) for i, j in blocks), dtype)


def left(parts: Callable[[], Iterator], dtype: str) -> dict[str, float]:
    """`survives` of a weight that comes in pieces: `parts()` yields (rows, what is added to them), both in fp32.

    Works in the memory of one piece; in nf4, whose blocks share one scale of scales, of the weight in 4 bits as well.
    """
    import torch

    product = size = norm = length = wrong = same = count = 0.0
    for rows, wanted, kept in _kept(parts, dtype):
        rows, wanted, kept = rows.double(), wanted.double(), kept.double()
        product += torch.sum(kept * wanted).item()
        size, norm, length = (s + v.square().sum().item() for s, v in ((size, wanted), (norm, rows), (length, kept)))
        wrong += (kept - wanted).square().sum().item()
        same, count = same + (kept == 0).sum().item(), count + kept.numel()
    size, norm, length = size**0.5, norm**0.5, length**0.5
    return {
        "cosine": product / (size * length) if size * length else 0.0,
        "unchanged": same / count,
        "error": wrong**0.5 / size if size else 0.0,
        "relative_delta": size / norm if norm else 0.0,
    }


def _kept(parts: Callable[[], Iterator], dtype: str) -> Iterator[tuple]:
    """(rows, what is added, what of it is left) piece by piece."""
    import torch

    if dtype != "nf4":
        for rows, wanted in parts():
            yield rows, wanted, rounded(rows + wanted, dtype) - rounded(rows, dtype)
        return

    def whole() -> Iterator:
        """The pieces in whole blocks: as they are, or all as one where a row is not made of blocks."""
        first = next(parts())[0]
        yield from parts() if first.shape[-1] % BLOCK == 0 else [map(torch.cat, zip(*parts(), strict=True))]

    before, after = restored((w for w, _ in whole()), "float32"), restored((w + d for w, d in whole()), "float32")
    for (rows, wanted), was, now in zip(whole(), before, after, strict=True):
        yield rows, wanted, now - was


def ladder(sizes, dtypes=FORMATS, shape: tuple[int, int] = (1024, 1024), r: int = 16, seed: int = 0) -> list[dict]:
    """`survives` for random weights N(0, 0.02) and random deltas of rank `r`, for every relative size and format.

    The weight lies on the format's own grid beforehand, as a stored base does, so that only the delta is rounded.
    Returns rows of `dtype, size, cosine, unchanged, error, relative_delta`.
    """
    import torch

    make = torch.Generator().manual_seed(seed)
    plain = 0.02 * torch.randn(shape, generator=make).bfloat16().float()
    low_rank = torch.randn(shape[0], r, generator=make) @ torch.randn(r, shape[1], generator=make)
    out = []
    for dtype in dtypes:
        weight = rounded(plain, dtype)
        for size in sizes:
            scaled = low_rank * (size * weight.norm() / low_rank.norm())
            out.append({"dtype": dtype, "size": size} | survives(weight, scaled, dtype))
    return out


def base_folder(base: str, revision: str | None = None) -> Path:
    """Folder with the stored weights of `base`: `builtin`, a folder, or a hub model (fetched where it is missing).

    Raises huggingface_hub's LocalEntryNotFoundError (a FileNotFoundError) when it is missing and out of reach.
    """
    name, more = locate(base, revision)
    if not more:
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(name, revision=revision, allow_patterns=["*.json", "model*.safetensors", "tokenizer.model"])
    )


def weight_of(folder: Path | str, layer: str):
    """The stored weight of `layer` (such as `model.layers.0.mlp.up_proj`) in fp32, read alone from its file."""
    return _read(stored.table(folder), f"{layer}.weight", folder)


def delta_of(adapter: Path | str, layer: str):
    """The delta that `adapter` adds to `layer`, (out, in) in fp32, with the layer's own rank and scale.

    rsLoRA divides by the root of the rank, https://arxiv.org/abs/2312.03732, section 3.
    """
    return _delta(stored.entries(Path(adapter) / WEIGHTS), layer, adapter)


def _read(entries: dict, key: str, folder):
    if key not in entries:
        raise FileProblem(f"{folder}: holds no {key}; base and adapter must be of one model.")
    return stored.read(entries[key], key).float()


def _delta(entries: dict, layer: str, adapter: Path | str):
    from peft.utils.other import get_pattern_key

    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    A, B = (_read(entries, f"{PREFIX}{layer}.lora_{side}.weight", adapter) for side in "AB")
    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, layer), config["lora_alpha"])
    return delta(A, B, alpha, len(A) ** 0.5 if config.get("use_rslora") else len(A))


def by_layer(base_folder: Path | str, adapter_folder: Path | str, dtype: str, since: Path | str | None = None):
    """How much of an adapter survives in each of its tensors when base and adapter are merged and saved in `dtype`.

    Reads a few rows at a time: two folders of safetensors, the adapter's as PEFT writes it. A tensor that the adapter
    brings as a whole (head, embedding, norm) counts with its difference to the base's, unless it is the base's own.
    With `since`, an earlier adapter, the delta is what was trained after that one. Returns rows of `layer` (module
    name), `relative_delta` and `cosine`, in the order of the layers.
    Raises FileProblem when the folder is no adapter, or the base lacks a layer of it; RecipeProblem for a kind of
    adapter that cannot be merged.
    """
    found = []
    for layer, parts, whole in moving(base_folder, adapter_folder, since):
        told = left(parts, dtype)
        if told["relative_delta"] or not whole:
            found.append({"layer": layer, "relative_delta": told["relative_delta"], "cosine": told["cosine"]})
    return found
