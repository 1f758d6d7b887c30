"""Adapter and base to plain weights: tensor by tensor, in the memory of the largest one.

The adapter was trained on the dequantized NF4 weights, so those are what it is merged onto unless a measurement says
otherwise: W = dequant(NF4) + (alpha / r) B A. Merging into 4 bits would erase it: the rounding step of NF4 is larger
than a DPO-sized delta. Lesson: 04_merge.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hermes_nb import models, runs
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import work
from hermes_nb.merge.choice import choose
from hermes_nb.merge.plan import Plan, plan
from hermes_nb.merge.survival import base_folder
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.models.quantized import friendly
from hermes_nb.recipes import Onto, SavedDtype
from hermes_nb.runtime import machine

ONTO, DTYPES = get_args(Onto), get_args(SavedDtype)
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer.model",
    "added_tokens.json",
)  # fmt: skip
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "_from_model_config")


def merge(
    base: str, adapter: Path | str | Sequence[Path | str], out: Path | str, onto: str = "auto", dtype: str = "auto",
    max_shard_size: str | int = "2GB", revision: str | None = None, template: str | None = None,
    watch: work.Watch = lambda done, total, name: None,
) -> Path:  # fmt: skip
    """Merge `adapter` into `base` and write a plain model folder `out`: weights, tokenizer, template, stop token.

    `base` is `builtin`, a folder or a hub name. `adapter` is a folder, or a chain of them, each trained on the one
    before (a stage that went on training the same adapter, as ours do, is one folder). `onto` is `dequantized` (the
    weights that the adapter was trained on) or `original`; `dtype` is the saved format; `auto` takes what `compare`
    chose for this adapter, else the rule of `choice`. `watch(done, total, name)` is told the bytes written.
    Nothing is written before base and adapter are found whole and fitting. The work is done in a hidden folder and
    renamed: `out` is whole or absent, a call after a kill goes on, and a call for what stands there already returns.
    Needs memory for the largest tensor a few times over, and the disk for the result. The tokenizer is the one beside
    the adapter; where there is none, the base's with our chat template `template`. Returns `out`.
    Raises RecipeProblem for unknown words and kinds of adapter that cannot be merged, FileProblem for what is damaged,
    does not fit, or when `out` is taken, ResourceProblem when the disk is too small, RunProblem when it is in use.
    """
    if onto not in ONTO or dtype not in DTYPES or not adapter:
        raise RecipeProblem(f"merge: onto is one of {', '.join(ONTO)}, dtype of {', '.join(DTYPES)}; name an adapter.")
    adapters = [Path(a) for a in ([adapter] if isinstance(adapter, (str, Path)) else adapter)]
    for each in adapters:
        models.check_adapter(each)
    place = Path(out).resolve()
    tokenizer = _tokenizer(base, adapters[-1], revision, template)
    chosen = choose(adapters[-1], onto, dtype)
    with friendly(str(base)):
        folder = base_folder(base, revision)
    todo = plan(folder, adapters, chosen.onto, chosen.dtype, trained_in(adapters[-1]), max_shard_size)
    configs = _configs(folder, todo, tokenizer)
    record = _record(base, revision, folder, adapters, todo, (str(max_shard_size), template))
    with work.locked(place):
        if not work.standing(place, record, todo):
            with work.folder(place, record, todo) as here:
                work.write_weights(here, todo, machine().device, watch)
                for name, config in configs.items():
                    runs.write_json(here / name, config)
                _write_tokenizer(tokenizer, adapters[-1], here, folder)
    return Path(out)


def trained_in(adapter: Path) -> str:
    """The number format of the model that `adapter` was trained on: its run's, else that of this machine.

    Raises FileProblem for a run that names none of ours.
    """
    record = adapter.parent / "run.json"
    dtype = (runs.read_json(record).get("dtype") if record.is_file() else None) or machine().dtype
    if dtype not in DTYPES[1:]:
        raise FileProblem(f"{record}: says dtype {dtype!r}, which is none of {', '.join(DTYPES[1:])}.")
    return dtype


def _record(base: str, revision, folder: Path, adapters: list[Path], todo: Plan, how: tuple) -> dict:
    """How the folder was made, as it stands in its `merge.json`: the same record, the same bytes."""
    read = [p for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", ".json")]
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in read]
    named = [{"name": a.parent.name if a.name == "adapter" else a.name, "sha256": runs.file_digest(a / WEIGHTS)}
             for a in adapters]  # fmt: skip
    beside = [a / name for a in adapters for name in ("adapter_config.json", *TOKENIZER)]
    settings = [runs.file_digest(path) for path in beside if path.is_file()]
    return {
        "base": models.portable(base), "revision": revision, "onto": todo.onto, "dtype": todo.dtype,
        "trained_in": todo.trained_in, "adapters": named, "parameters": todo.parameters, "bytes": todo.bytes,
        "key": runs.fingerprint(files, settings, how), "versions": runs.versions(),
    }  # fmt: skip


def _tokenizer(base: str, adapter: Path, revision: str | None, template: str | None):
    """The tokenizer beside the adapter, else the base's with `template`."""
    from transformers import AutoTokenizer

    if (adapter / "tokenizer.json").is_file():
        with friendly(str(adapter)):
            return AutoTokenizer.from_pretrained(adapter)
    if template is None:
        raise FileProblem(
            f"{adapter}: no tokenizer beside it; name the chat template that it was trained with (--template chatml)."
        )
    return models.tokenizer(base, template, revision)


def _write_tokenizer(tokenizer, adapter: Path, folder: Path, base: Path | None = None) -> None:
    """Copy the adapter's tokenizer files; where it has none, write those of `tokenizer`.

    Files that others, or older runs of ours, have saved are brought to the form that every reader takes as it is; the
    `tokenizer.model` that they lack is taken from the folder `base`.
    """
    if not (adapter / "tokenizer.json").is_file():
        models.save_tokenizer(tokenizer, folder)
        return
    for name in TOKENIZER:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)
    models.plain_class(folder)
    models.add_sentencepiece(folder, base)


def _configs(base: Path, todo: Plan, tokenizer) -> dict[str, dict]:
    """The base's `config.json` and `generation_config.json`, changed where the merge changes something.

    The base's own files are kept, not written anew by this transformers: other programs read the older keys.
    Greedy by default, and an answer ends in the template's stop token, or in what ended the base's.
    Raises FileProblem for a damaged file, or a stop token that the model has no place for.
    """
    config, path = runs.read_json(base / "config.json"), base / "generation_config.json"
    how = runs.read_json(path) if path.is_file() else {}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if max(ends.values()) >= todo.vocabulary:
        raise FileProblem(f"merge: the tokenizer ends in id {max(ends.values())}, the model has {todo.vocabulary} ids.")
    stops = [tokenizer.eos_token_id, *_listed(how.get("eos_token_id", config.get("eos_token_id")))]
    stops = list(dict.fromkeys(stops))
    config |= ends | {"dtype": todo.dtype, "tie_word_embeddings": todo.tied, "vocab_size": todo.vocabulary}
    if "torch_dtype" in config:
        config["torch_dtype"] = todo.dtype
    for key in ("_name_or_path", "_commit_hash"):
        config.pop(key, None)
    how = {key: value for key, value in how.items() if key not in SAMPLING}
    how |= ends | {"do_sample": False, "eos_token_id": stops if len(stops) > 1 else stops[0]}
    return {"config.json": config, "generation_config.json": how}


def _listed(ids) -> list[int]:
    """Stop ids as a list, whether they are written as none, one or several."""
    return [] if ids is None else ids if isinstance(ids, list) else [ids]
