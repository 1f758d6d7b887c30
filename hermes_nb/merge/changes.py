"""What an adapter does to each stored weight: PEFT's own list of its tensors, compared with the file's, one by one.

The model is built without numbers and wrapped by PEFT, which names every tensor the adapter must hold, with its shape
and its scaling (rank and alpha patterns, rsLoRA). Lesson: 04_merge.
"""

import dataclasses
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import models, runs
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import skeleton, stored
from hermes_nb.merge.skeleton import Skeleton
from hermes_nb.models.adapters import WEIGHTS

PREFIX = "base_model.model."
# settings that say where the adapter acts, how large its delta is, or nothing about its numbers; any other setting
# that is not PEFT's default is refused by name
UNDERSTOOD = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "modules_to_save", "lora_dropout", "runtime_config",
    "ensure_weight_tying", "eva_config", "init_lora_weights", "megatron_core", "qalora_group_size",
}  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # those that leave the base's weights alone


@dataclass(frozen=True)
class Change:
    """What one adapter does to one weight.

    `weight` is the weight's name in the base; `tensors` maps `A`, `B`, `magnitude` (DoRA) or `value` (the weight was
    trained as a whole) to (name, Entry) in the adapter's file; the delta is scaling * B @ A, turned where `turned`.
    """

    weight: str
    tensors: dict
    scaling: float = 1.0
    turned: bool = False
    embedding: bool = False


def changes(adapter: Path | str, base: Path | str, bones: Skeleton) -> list[Change]:
    """All changes of the adapter in folder `adapter` to the model of folder `base`; each of its tensors is used once.

    Raises RecipeProblem for a kind of adapter that cannot be merged, FileProblem naming the tensor when one is missing,
    left over, of the wrong shape, or not finite.
    """
    models.check_adapter(adapter)
    config = _config(Path(adapter))
    held = stored.entries(Path(adapter) / WEIGHTS)
    beside = _beside(held, bones)
    rows = {held[key].shape[0] for key, (weight, _) in beside.items() if weight in (bones.head, bones.embedding)}
    wrapped = _wrapped(adapter, base, config, max(rows, default=None))
    wanted = _wanted(wrapped)
    _account(held, wanted, beside, adapter)
    layers = [*_layers(wrapped, held, adapter)]
    used = {name for change in layers for name, _ in change.tensors.values()}
    whole = {key: key.removeprefix(PREFIX) for key in wanted if key not in used}
    whole |= {key: weight for key, (weight, how) in beside.items() if key not in wanted and how in ("", "base_layer.")}
    for key in held:
        _finite(held[key], key, adapter)
    # a weight that the adapter brings is there before it is added to
    return [Change(weight, {"value": (key, held[key])}) for key, weight in whole.items()] + layers


def _beside(held: dict, bones: Skeleton) -> dict[str, tuple[str, str]]:
    """Tensors of embedding and head that PEFT saves beside the adapter: name to (weight, kind of copy).

    Of a vocabulary that has grown, or where one of the two was trained, PEFT 0.21 saves all that it finds below the
    module: the weight itself, its `base_layer.` or `original_module.`, and a second copy as `modules_to_save.`.
    """
    found = {}
    for key in held:
        for module in {name.removesuffix("weight") for name in (bones.head, bones.embedding)}:
            for how in ("", "base_layer.", "original_module.", "modules_to_save."):
                for part in ("weight", "bias"):
                    if key == f"{PREFIX}{module}{how}{part}":
                        found[key] = f"{module}{part}", how
    return found


def _account(held: dict, wanted: dict, beside: dict, adapter) -> None:
    """Raise FileProblem unless the adapter's file holds what PEFT wants of it, and nothing that has no place."""
    for key in held:
        if key not in wanted and key not in beside:
            raise FileProblem(f"{adapter}: {key} has no place in the base; this adapter is of another model.")
    for key, shape in wanted.items():
        if key not in held:
            raise FileProblem(f"{adapter}: {key} is missing; train that adapter again, or fetch it again.")
        if held[key].shape != shape:
            raise FileProblem(
                f"{adapter}: {key} is {held[key].shape}, the base needs {shape}; this adapter is of another model."
            )
    for key, (weight, how) in beside.items():
        twin = f"{PREFIX}{weight}"
        if how == "modules_to_save." and not (twin in held and same((key, held[key]), (twin, held[twin]))):
            raise FileProblem(f"{adapter}: {key} is not the {weight} that is saved beside it; fetch it again.")


def same(one: tuple, two: tuple) -> bool:
    """Whether two tensors, each (name, Entry), hold the same numbers."""
    if one[1].shape != two[1].shape:
        return False
    both = zip(stored.pieces(one[1], one[0]), stored.pieces(two[1], two[0]), strict=True)
    return all(a.float().equal(b.float()) for a, b in both)


def _config(adapter: Path):
    """The adapter's settings, read by PEFT; RecipeProblem for one that changes what a merge must do."""
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(adapter)
    except (ValueError, TypeError, KeyError) as error:
        raise FileProblem(f"{adapter / 'adapter_config.json'}: damaged ({type(error).__name__}).") from error
    if not isinstance(config, LoraConfig):
        raise RecipeProblem(f"{adapter}: an adapter of kind {config.peft_type}; only LoRA and DoRA can be merged here.")
    usual, told = vars(LoraConfig()), json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [n for n, value in vars(config).items() if n in usual and n not in UNDERSTOOD and value != usual[n]]
    odd += [n for n, value in told.items() if n not in usual and value]  # of a later PEFT, which this one leaves out
    if odd:
        raise RecipeProblem(f"{adapter}: was trained with {', '.join(odd)}; merge it with PEFT's merge_and_unload.")
    if config.init_lora_weights not in PLAIN_STARTS:
        raise RecipeProblem(
            f"{adapter}: began as {config.init_lora_weights!r}, which changes the base as well; let PEFT save it as a "
            f"plain LoRA (path_initial_model_for_weight_conversion) and merge that."
        )
    return config


def _wrapped(adapter, base, config, vocabulary: int | None):
    """The base without numbers, with so many tokens, wrapped by PEFT with an adapter of these settings."""
    from peft import get_peft_model

    plain = dataclasses.replace(config, init_lora_weights=True, inference_mode=True, base_model_name_or_path=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what training might meet; nothing is trained here
            return get_peft_model(skeleton.empty(base, vocabulary), plain, low_cpu_mem_usage=True)
    except (ValueError, re.error) as error:
        raise FileProblem(f"{adapter}: this adapter does not fit the base ({str(error).splitlines()[0]}).") from error


def _wanted(wrapped) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor that PEFT would save of this adapter."""
    from peft import get_peft_model_state_dict

    return {k: tuple(v.shape) for k, v in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()}


def _layers(wrapped, held: dict, adapter):
    """The changes of all layers that PEFT has wrapped, in the model's order."""
    from peft.tuners.lora import layer as kinds

    for name, module in wrapped.base_model.model.named_modules():
        if not isinstance(module, kinds.LoraLayer):
            continue
        variants = {type(v).__name__ for v in module.lora_variant.values()}
        if type(module) not in (kinds.Linear, kinds.Embedding) or not variants <= {"DoraLinearVariant"}:
            what = ", ".join(variants) or type(module).__name__
            raise RecipeProblem(f"{adapter}: {name} is a {what}; merge it with PEFT's merge_and_unload.")
        embedding = isinstance(module, kinds.Embedding)
        ends = {"A": "lora_embedding_A", "B": "lora_embedding_B"} if embedding else {
            "A": "lora_A.weight", "B": "lora_B.weight"}  # fmt: skip
        if variants:
            ends["magnitude"] = "lora_magnitude_vector"
        tensors = {part: (f"{PREFIX}{name}.{end}", held[f"{PREFIX}{name}.{end}"]) for part, end in ends.items()}
        turned = False if embedding else module.fan_in_fan_out
        if turned and variants:
            raise RecipeProblem(f"{adapter}: {name} is a DoRA on a Conv1D; merge it with PEFT's merge_and_unload.")
        yield Change(f"{name}.weight", tensors, module.scaling["default"], turned, embedding)


def _finite(entry: stored.Entry, key: str, adapter) -> None:
    for part in stored.pieces(entry, key):
        if not stored.finite(part):
            raise FileProblem(
                f"{adapter}: {key} holds numbers that are not finite; that training failed, take an earlier checkpoint."
            )


def overlap(adapters: list[Path]) -> None:
    """Raise RecipeProblem when a later adapter of a chain went on training an earlier one: it holds that one already.

    Our stages say so: `run.json` beside the adapter names the file that it started from.
    """
    digests = {runs.file_digest(Path(a) / WEIGHTS): a for a in adapters}
    if len(digests) < len(adapters):
        raise RecipeProblem(f"merge: {adapters[0]} is named twice; name each adapter of the chain once.")
    for adapter in adapters:
        record = Path(adapter).parent / "run.json"
        parent = json.loads(record.read_text(encoding="utf-8")).get("parent") if record.is_file() else None
        if parent in digests:
            raise RecipeProblem(
                f"{adapter}: went on training {digests[parent]} and holds it already; merge this one alone."
            )
