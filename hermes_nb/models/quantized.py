"""Loading in 4 bits: NF4, double quantization, compute and storage dtype always spelled out.

bitsandbytes' own defaults are fp4, fp32 arithmetic and no double quantization, so nothing is left to them.
NF4: https://arxiv.org/abs/2305.14314, section 3.
"""

import errno
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from hermes_nb import templates
from hermes_nb.errors import FileProblem, NetworkProblem
from hermes_nb.models.builtin import BUILTIN, builtin
from hermes_nb.runtime import cache_dir, give_back, machine, need_memory, token

ROOM = 0.85  # share of a GPU's memory that weights may take; answers need the rest


def nf4_config(dtype: str):
    """The 4-bit configuration: NF4, double quantization, arithmetic in `dtype`, storage in uint8."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        bnb_4bit_quant_storage=torch.uint8,
    )


def locate(base: str, revision: str | None = None) -> tuple[str, dict]:
    """Turn `builtin`, a folder or a hub name into what `from_pretrained` takes: (name, further arguments)."""
    if str(base) == BUILTIN:
        return str(builtin()), {}
    if Path(base).is_dir():
        return str(base), {}
    if str(base).startswith((".", "/", "~")):
        raise FileProblem(f"{base}: no such model folder; give a folder with config.json, a hub name, or builtin.")
    return str(base), {"revision": revision, "token": token()}


@contextmanager
def friendly(base: str):
    """Turn the hub's many ways to fail into one sentence."""
    try:
        yield
    except SafetensorError as error:
        raise FileProblem(f"{base}: its weights are damaged ({error}); fetch or make that model again.") from error
    except (OSError, ValueError) as error:
        local = Path(base).is_dir()
        if isinstance(error, ValueError) and not local or isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        if local:
            raise FileProblem(f"{base}: not a whole model folder ({str(error).splitlines()[0]}).") from error
        raise NetworkProblem(
            f"{base}: not in the local cache and the hub gave no answer ({type(error).__name__}); check the name, the "
            f"network and HF_TOKEN, or use the built-in model (--scale tiny)."
        ) from error


@contextmanager
def _no_bar():
    """Load local weights without transformers' progress bar, which flashes by in under a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def tokenizer(base: str, template: str, revision: str | None = None):
    """The base's tokenizer with our chat template and its stop token as `eos_token`."""
    from transformers import AutoTokenizer

    name, more = locate(base, revision)
    with friendly(name):
        return templates.fit(AutoTokenizer.from_pretrained(name, **more), template)


def load_plain(base: str, dtype: str, revision: str | None = None):
    """The base in 16 or 32 bit, unquantized, on the machine's device.

    A folder that a GPU has no room for is spread over GPU and main memory by accelerate. Raises ResourceProblem where
    a machine without a GPU has too little memory for it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    name, more = locate(base, revision)
    with friendly(name), _no_bar() if Path(name).is_dir() else nullcontext():
        return AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), device_map=_place(name), **more)


def _place(name: str) -> dict | str:
    """Where a model goes as a whole, or `auto` where it must be spread."""
    here = machine()
    gigabytes = sum(p.stat().st_size for p in Path(name).glob("*.safetensors")) / 1e9 if Path(name).is_dir() else 0.0
    if here.device == "cuda" and gigabytes > ROOM * here.memory_gb:
        return "auto"
    if here.device == "cpu":
        need_memory(gigabytes, f"{Path(name).name} unquantized")
    return {"": here.device}


def load_4bit(base: str, dtype: str | None = None, revision: str | None = None, needs_gb: float = 0.0):
    """The base in 4 bits on the machine's device, guarded for training.

    `dtype` is the arithmetic's (default: the machine's). On a CPU the quantized form of a local model is cached, so
    that a second process loads it in under a second. Raises ResourceProblem below `needs_gb` of device memory.
    """
    give_back()  # of a model that was dropped before
    here = machine()
    need_memory(needs_gb, f"{base} at this scale")
    dtype = dtype or here.dtype
    name, more = locate(base, revision)
    with friendly(name):
        if here.device == "cpu" and Path(name).is_dir():
            with _no_bar():
                return guard_cpu_gradients(_from_cache(Path(name), dtype))
        return guard_cpu_gradients(_quantize(name, dtype, here.device, more))


def _quantize(name: str, dtype: str, device: str, more: dict):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        name, quantization_config=nf4_config(dtype), dtype=getattr(torch, dtype), device_map={"": device}, **more
    )


def _fingerprint(folder: Path, dtype: str) -> str:
    """Key of a cached NF4 form: the files that made it (name, size, time) and the arithmetic."""
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
    return hashlib.sha256(json.dumps([files, dtype]).encode()).hexdigest()[:16]


def _from_cache(folder: Path, dtype: str):
    """Load the NF4 form of a local model from the cache, making it first where it is missing."""
    from transformers import AutoModelForCausalLM

    cache = cache_dir() / "nf4"
    cache.mkdir(exist_ok=True)
    done = cache / _fingerprint(folder, dtype)
    if not done.is_dir():
        with FileLock(cache / f"{done.name}.lock"):
            if not done.is_dir():
                with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as work:
                    _quantize(str(folder), dtype, "cpu", {}).save_pretrained(Path(work) / "model")
                    os.replace(Path(work) / "model", done)
    model = AutoModelForCausalLM.from_pretrained(done, device_map={"": "cpu"})
    model.name_or_path = model.config._name_or_path = str(folder)
    return model


def guard_cpu_gradients(model):
    """Switch off bitsandbytes' packed CPU kernel, which has no gradient.

    bitsandbytes 0.50.2 packs a `Linear4bit` for AVX512-BF16 the first time it runs in eval mode without gradients; from
    then on its backward gives no input gradient and raises nothing, so any evaluation in mid-training silently freezes
    the adapters below. Returns the model.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def dequantize(model, dtype: str):
    """The NF4 model as a plain one, in place: the very weights that training computed with, in `dtype`.

    transformers 5.23 remembers how a pre-quantized model was read and wants to reverse it on saving, which for
    bitsandbytes it cannot (a bare NotImplementedError); a plain model needs no such memory.
    """
    import torch

    plain = model.dequantize(dtype=getattr(torch, dtype))
    plain._weight_conversions = None
    return plain


def saved_dtype(folder) -> str:
    """The number format that a model folder says it was saved in."""
    return json.loads((Path(folder) / "config.json").read_text())["dtype"]


def autocast(model):
    """Autocast to the 16-bit format of the base, as in training; nothing for an fp32 base."""
    import torch

    dtype = model.get_input_embeddings().weight.dtype
    return torch.autocast(model.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16))


@contextmanager
def reading(model):
    """Eval mode without gradients, in training's arithmetic, put back afterwards."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(model):
            yield
    finally:
        model.train(was_training)
