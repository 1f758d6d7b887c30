"""LoRA adapters: added, loaded, kept in fp32 through TRL's constructor, saved without a path of this machine.

LoRA: https://arxiv.org/abs/2106.09685. Lesson: 02_qlora_sft.
"""

import json
import threading
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.models.builtin import BUILTIN, GGUF_SHA256, NAME

WEIGHTS = "adapter_model.safetensors"
ACTING = threading.RLock()  # an adapter acts for the whole model


def add_lora(model, lora):
    """Wrap `model` with a fresh adapter named `default` (fp32; B = 0, so it changes nothing yet).

    `lora` is a `recipes.Lora`; `all-linear` means every linear layer but the head. Raises RecipeProblem when a target
    names no layer of this model.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    shape = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        return _fp32(get_peft_model(model, shape))
    except ValueError as error:
        raise RecipeProblem(f"lora: does not fit this model ({str(error).splitlines()[0]})") from error


def load_adapter(model, folder: Path | str, trainable: bool = False, name: str = "default"):
    """Wrap `model` with the adapter in `folder`; TRL needs the name `default`.

    Raises FileProblem when the folder holds no adapter, or its tensors are damaged or do not fit this base.
    """
    from peft import PeftModel

    check_adapter(folder)
    # PEFT only warns about tensors that are missing, so they are counted
    with safe_open(Path(folder) / WEIGHTS, "pt") as file:
        stored = len(file.keys())
    try:
        wrapped = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        raise FileProblem(f"{folder}: this adapter does not fit the base ({str(error).splitlines()[0]}).") from error
    # PEFT 0.21 asks the hub for the config of the base that an adapter names, at every save; the base is here
    wrapped.peft_config[name].base_model_name_or_path = model.name_or_path
    made = sum(f".{name}." in n for n, _ in wrapped.named_parameters())
    if made != stored:
        raise FileProblem(
            f"{folder}: {stored} tensors for {made} places in the base; this adapter is of another model."
        )
    return _fp32(wrapped)


def check_adapter(folder: Path | str) -> None:
    """Raise FileProblem unless `folder` holds an adapter whose file is whole."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise FileProblem(f"{folder}: no adapter here (adapter_config.json and {WEIGHTS} are needed).")
    try:
        with safe_open(folder / WEIGHTS, "pt"):
            pass
    except SafetensorError as error:
        raise FileProblem(f"{folder / WEIGHTS}: damaged ({error}); train that stage again.") from error


def load_adapters(model, folders: dict):
    """Wrap `model` with several frozen adapters, name to folder; `active` chooses among them."""
    (first, *others) = folders
    model = load_adapter(model, folders[first], name=first)
    for name in others:
        check_adapter(folders[name])
        model.load_adapter(folders[name], adapter_name=name)
    return _fp32(model)


@contextmanager
def active(model, name: str):
    """Let adapter `name` of `load_adapters` act; `base` means none. What acted before acts again afterwards.

    PEFT raises ValueError for an unknown name.
    One thread at a time: a chat that answers while a cell runs must not be given that cell's adapter.
    """
    from peft import PeftModel

    with ACTING:
        if name == "base" and not isinstance(model, PeftModel):
            yield model
        elif name == "base":
            with model.disable_adapter():
                yield model
        else:
            before = model.active_adapter
            model.set_adapter(name)
            try:
                yield model
            finally:
                model.set_adapter(before)


def _fp32(model):
    """Adapters live in fp32, whatever the base computes in."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return model


def snapshot(model) -> dict:
    """Copies of all trainable tensors by name, on the CPU."""
    return {n: p.detach().clone().cpu() for n, p in model.named_parameters() if p.requires_grad}


@contextmanager
def keep_fp32(model):
    """Carry the trainable tensors of `model` unrounded through TRL's constructor.

    trl 1.16 casts every trainable tensor of a 4-bit model to bf16, after copying it to the reference. Casting back
    with `.float()` keeps the rounding: without autocast policy and reference then differ at step 0 (loss off by
    0.011), and left in bf16, updates of a DPO-sized learning rate round to nothing
    (https://github.com/huggingface/trl/issues/7268).
    """
    before = snapshot(model)
    yield
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.data = before[name].to(parameter.device)


def moved(before: dict, after: dict) -> float:
    """Share of the entries that differ between two snapshots with the same names."""
    changed = sum((before[n] != after[n]).sum().item() for n in before)
    return changed / sum(t.numel() for t in before.values())


def portable(base: str) -> str:
    """The name of a base as it may be published: a hub name, `builtin`, or a folder's name without its path."""
    return Path(base).name if Path(base).is_dir() else str(base)


def save_adapter(model, folder: Path, base: str, revision: str | None = None) -> Path:
    """Save the adapter `default` (fp32 safetensors) with `base` as its base model; no pickle, no local path."""
    folder = Path(folder)
    model.save_pretrained(folder, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card names the cache folder; publishing writes its own
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"], config["revision"] = portable(base), revision
    if not isinstance(config["target_modules"], str):
        config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in an order of its own
    if base == BUILTIN:
        config["base_model_name_or_path"], config["revision"] = NAME, GGUF_SHA256[:12]
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
