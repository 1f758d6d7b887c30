"""Reference log-probabilities computed once and kept: in parquet files, as they are made, under the key of their model.

The reference never changes while DPO trains, nor does it depend on learning rate, beta, seed or epochs. So its
log-probabilities are found again whenever base, reference adapter, token ids, layout and arithmetic are the same.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hermes_nb.errors import FileProblem, RunProblem
from hermes_nb.runs import fingerprint, read_json, write_json
from hermes_nb.runtime import cache_dir, sha256

# of a config what changes no number: where the model came from, and what packing sets
SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")  # of an adapter, beside its tensors
NAMES = ("_name_or_path", "name_or_path", "transformers_version", "_attn_implementation", "use_cache")


def digest(tensors: Iterable[tuple[str, object]]) -> str:
    """sha256 over the names, shapes and bytes of tensors; 4-bit ones with the constants that restore them."""
    import torch
    from bitsandbytes.nn import Params4bit

    whole = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        state = tensor.quant_state if isinstance(tensor, Params4bit) else None
        constants = [state.absmax, *((state.state2.absmax, state.offset) if state.nested else ())] if state else []
        for part in (tensor, *constants):
            raw = part.detach().cpu().contiguous()
            whole.update(f"{name} {tuple(raw.shape)} {raw.dtype}".encode())
            whole.update(raw.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()[:32]


def key_of(model, layout: str, arithmetic: str) -> dict[str, str]:
    """What stored values depend on: weights of base and reference adapter, layout of the rows, number format."""
    named = dict(model.named_parameters())
    base = [(n, p) for n, p in named.items() if "lora_" not in n]
    adapter = [(n, p) for n, p in named.items() if "lora_" in n and ".ref." in n]
    shape = {k: v for k, v in model.config.to_diff_dict().items() if k not in NAMES}
    scaling = model.peft_config["ref"].to_dict() if adapter else {}
    scaling = {
        k: str(scaling[k]) for k in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern") if scaling
    }
    return {
        "base": digest(base), "its config": fingerprint(json.loads(json.dumps(shape, default=str))),
        "reference adapter": fingerprint(digest(adapter), scaling) if adapter else "none",
        "layout": layout, "arithmetic": arithmetic,
    }  # fmt: skip


def row_key(prompt: list[int], chosen: list[int], rejected: list[int], max_length: int) -> str:
    """Digest of the token ids of a pair as they are scored, cut at `max_length`."""
    room = max(0, max_length - len(prompt))
    return fingerprint(prompt[:max_length], chosen[:room], rejected[:room])


class Store:
    """Values of one reference: a folder of parquet files, each written whole or not at all."""

    def __init__(self, key: dict[str, str], folder: Path | str | None = None):
        """Open or make the store. RunProblem when `folder` holds the values of another key, naming what differs."""
        self.folder = Path(folder) if folder else cache_dir() / "reference" / fingerprint(key)
        told = self.folder / "key.json"
        if told.is_file():
            other = read_json(told)
            differing = [name for name in key if other.get(name) != key[name]]
            if differing:
                raise RunProblem(
                    f"{self.folder}: stored for another reference ({', '.join(differing)}: not the same); "
                    f"choose another folder, or delete this one."
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(told, key)

    def load(self) -> dict[str, tuple[float, float]]:
        """Row key to the summed log-probabilities (nats) of chosen and rejected. FileProblem names a damaged file."""
        import pyarrow.parquet

        out = {}
        for file in sorted(self.folder.glob("*.parquet")):
            try:
                if sha256(file)[:16] != file.stem:  # parquet alone reads a flipped bit as another value
                    raise ValueError("not the bytes that were written")
                columns = pyarrow.parquet.read_table(file).to_pydict()
            except (OSError, ValueError) as error:
                raise FileProblem(f"{file}: damaged; delete it, its rows are computed again.") from error
            values = zip(columns["chosen"], columns["rejected"], strict=True)
            out.update(zip(columns["row"], values, strict=True))
        return out

    def add(self, rows: dict[str, tuple[float, float]]) -> None:
        """Keep values; the file appears under its name when it is whole."""
        import pyarrow
        import pyarrow.parquet

        chosen, rejected = zip(*rows.values(), strict=True)
        table = pyarrow.table({"row": list(rows), "chosen": list(chosen), "rejected": list(rejected)})
        part = self.folder / f"{fingerprint(list(rows))}.part"
        pyarrow.parquet.write_table(table, part)
        part.replace(self.folder / f"{sha256(part)[:16]}.parquet")
