"""The model of a base without its numbers: which weights it has, which of them training held in 4 bits, which are one.

Built by transformers and quantized by its own code on torch's `meta` device, so that nobody guesses. Lesson: 04_merge.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import models
from hermes_nb.errors import FileProblem, RecipeProblem


@dataclass(frozen=True)
class Skeleton:
    """What is known of a base before a weight is read.

    `shapes` is parameter and buffer name to shape, `quantized` holds the names of the weights that are NF4 in training,
    `tied` maps a name that shares another one's tensor to that other one.
    """

    config: dict
    shapes: dict[str, tuple[int, ...]]
    quantized: frozenset[str]
    tied: dict[str, str]
    head: str
    embedding: str


def read_config(folder: Path | str) -> dict:
    """`config.json` of a base. Raises FileProblem when it is missing, damaged, or that of a quantized model."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileProblem(f"{folder}: not a whole model folder (config.json is missing).") from error
    except ValueError as error:
        raise FileProblem(f"{path}: damaged; fetch or make that model again.") from error
    if not isinstance(config, dict):
        raise FileProblem(f"{path}: damaged; fetch or make that model again.")
    if "quantization_config" in config:
        raise FileProblem(f"{folder}: is quantized already; merge onto the model in 16 bits that it was made from.")
    return config


def empty(folder: Path | str, vocabulary: int | None = None):
    """The base as transformers builds it, on the `meta` device: names and shapes, no numbers; with `vocabulary` tokens.

    Raises FileProblem for a config that transformers cannot build a model from.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    read_config(folder)
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise FileProblem(f"{folder}: no model can be built from its config.json ({error}).") from error
    model.tie_weights()  # which the other context leaves out as well
    if vocabulary not in (None, model.get_input_embeddings().weight.shape[0]):
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return model


def skeleton(folder: Path | str, quantizing: bool = True) -> Skeleton:
    """Look at the base in `folder`; unless `quantizing`, what would be quantized is left out.

    Raises RecipeProblem for a model whose files name other tensors than it computes with (experts that are joined when
    they are loaded, say).
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    config, model = read_config(folder), empty(folder)
    if get_checkpoint_conversion_mapping(model.config.model_type):
        raise RecipeProblem(
            f"{folder}: transformers loads {model.config.model_type} models under other names than they are stored "
            f"with, and the merge reads the files; merge this one with PEFT's merge_and_unload."
        )
    names = {id(module): name for name, module in model.named_modules()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ends = [f"{names[id(m)]}.weight" for m in (model.get_output_embeddings(), model.get_input_embeddings())]
    tied = _tied(model)
    return Skeleton(config, shapes, frozenset(quantized(model) if quantizing else ()), tied, *ends)


def _tied(model) -> dict[str, str]:
    """Name to the name, first in the model, of the parameter that it shares."""
    same = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        same[id(parameter)].append(name)
    return {other: first for first, *others in same.values() for other in others}


def quantized(model) -> list[str]:
    """Names of the weights of `model` (on the `meta` device) that loading in 4 bits quantizes; the model is used up.

    Raises RecipeProblem for a model of Conv1D layers: they are quantized turned, which the file does not show.
    """
    import bitsandbytes
    import torch
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers import AutoHfQuantizer

    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise RecipeProblem("merge: a model of Conv1D layers (GPT-2) can be merged onto the original only.")
    ours = AutoHfQuantizer.from_config(models.nf4_config("float32"))
    ours.preprocess_model(model=model, dtype=torch.float32, device_map={"": "cpu"})
    return [f"{n}.weight" for n, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
