"""What a merge will write: every tensor with its source and its changes, cut into files; nothing is written yet.

Whatever is wrong with base or adapter is found here, by name. Lesson: 04_merge.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import stored
from hermes_nb.merge.changes import Change, changes, overlap, same
from hermes_nb.merge.skeleton import Skeleton, skeleton
from hermes_nb.merge.stored import FLOATS, Entry


@dataclass(frozen=True)
class Output:
    """One tensor of the merged model: where its base lies, what is added, in which format it is written."""

    name: str
    source: tuple[str, Entry]  # name and place in the base
    changes: tuple[Change, ...]
    quantized: bool  # goes through NF4 and back first
    entry: Entry  # as it will be written


@dataclass(frozen=True)
class Plan:
    """The whole merge: outputs by file, and what `config.json` must say of them."""

    files: dict[str, dict[str, Output]]
    onto: str
    dtype: str
    trained_in: str
    tied: bool
    vocabulary: int

    @property
    def outputs(self) -> list[Output]:
        """All outputs, in the order in which they are written."""
        return [output for tensors in self.files.values() for output in tensors.values()]

    @property
    def bytes(self) -> int:
        """What the tensors take, without the headers of their files."""
        return sum(output.entry.size for output in self.outputs)

    @property
    def parameters(self) -> int:
        """Numbers in the merged model."""
        return sum(math.prod(output.entry.shape) for output in self.outputs)

    def entries(self, name: str) -> dict[str, Entry]:
        """The tensors of file `name`, as they are written."""
        return {key: output.entry for key, output in self.files[name].items()}


def plan(base: Path, adapters: list[Path], onto: str, dtype: str, trained_in: str, max_shard_size: str | int) -> Plan:
    """Plan the merge of `adapters`, one after another, onto the model in folder `base`; writes nothing.

    `onto` and `dtype` are decided already; `trained_in` is the number format of the model in training.
    Raises FileProblem or RecipeProblem, naming file and tensor, for whatever is damaged or does not fit.
    """
    overlap(adapters)
    bones = skeleton(base, onto == "dequantized")
    table = _whole(base, bones)
    by_weight = defaultdict(list)
    for adapter in adapters:
        for change in changes(adapter, base, bones):
            if not _as_stored(change, table, bones):
                by_weight[change.weight].append(change)
    _no_chain_of_dora(by_weight)
    shared = {a: f for a, f in bones.tied.items() if not {a, f} <= set(table) or same((a, table[a]), (f, table[f]))}
    tied = bool(shared) and all(_still_tied(alias, first, by_weight) for alias, first in shared.items())
    outputs = {}
    for name in [*table, *(() if tied else shared)]:
        place = shared.get(name, name)
        if (tied and place != name) or name in outputs or place not in table:
            continue
        quantized = onto == "dequantized" and name in bones.quantized
        outputs[name] = _output(name, (place, table[place]), tuple(by_weight.pop(name, ())), quantized, dtype)
    left = list(by_weight)
    if left:
        raise FileProblem(f"{base}: holds no {left[0]}, which the adapter changes; base and adapter must be one model.")
    return Plan(
        _files(outputs, max_shard_size), onto, dtype, trained_in, tied, _vocabulary(outputs, bones, adapters[-1])
    )


def _whole(base: Path, bones: Skeleton) -> dict[str, Entry]:
    """The base's tensors; FileProblem when one that the model needs is missing or of another shape."""
    table = stored.table(base)
    for name, shape in bones.shapes.items():
        if name not in table:
            if bones.tied.get(name) in table:
                continue
            raise FileProblem(
                f"{base}: {name} is missing; fetch or make that model again (saved by transformers, under its names)."
            )
        if table[name].shape != shape:
            raise FileProblem(f"{table[name].file}: {name} is {table[name].shape}, config.json says {shape}.")
    return table


def _as_stored(change: Change, table: dict[str, Entry], bones: Skeleton) -> bool:
    """Whether a weight that the adapter brings as a whole is the base's own."""
    name = change.weight if change.weight in table else bones.tied.get(change.weight, change.weight)
    if "value" not in change.tensors or name not in table:
        return False
    key, entry = change.tensors["value"]
    return same((key, entry), (name, table[name]))


def _no_chain_of_dora(by_weight: dict[str, list[Change]]) -> None:
    for weight, several in by_weight.items():
        if len(several) > 1 and any("magnitude" in change.tensors for change in several):
            raise RecipeProblem(
                f"{weight}: DoRA in a chain of adapters; each measures its norm on the base alone, so their sum is no "
                f"weight. Merge the first, train on, and merge again."
            )


def _still_tied(alias: str, first: str, by_weight: dict[str, list[Change]]) -> bool:
    """Whether two names that shared one tensor may go on sharing it: neither changed, or both became the same."""
    one, two = by_weight.get(alias, []), by_weight.get(first, [])
    if not one and not two:
        return True
    values = [several[-1].tensors.get("value") if several else None for several in (one, two)]
    if None in values:
        return False
    if not same(*values):
        return False
    by_weight.pop(alias)  # one of two equal ones is written
    return True


def _output(name: str, source: tuple, several: tuple[Change, ...], quantized: bool, dtype: str) -> Output:
    """An output in its format: what is no float stays as it is."""
    kind = FLOATS[dtype] if source[1].dtype in ("F64", *FLOATS.values()) else source[1].dtype
    whole = [i for i, change in enumerate(several) if "value" in change.tensors]
    several = several[whole[-1] :] if whole else several  # what came before it is replaced
    shape = several[0].tensors["value"][1].shape if whole else source[1].shape
    return Output(name, source, several, quantized, Entry(Path(), kind, shape))


def _vocabulary(outputs: dict[str, Output], bones: Skeleton, adapter) -> int:
    """Tokens of the merged model. FileProblem when input and output do not agree on them."""
    counts = {outputs[name].entry.shape[0] for name in (bones.head, bones.embedding) if name in outputs}
    if len(counts) > 1:
        raise FileProblem(
            f"{adapter}: {bones.embedding} and {bones.head} are for {sorted(counts)} tokens: the vocabulary has grown, "
            f"and the adapter brings one of the two only. Save it again with both (modules_to_save)."
        )
    return counts.pop()


def _files(outputs: dict[str, Output], max_shard_size: str | int) -> dict[str, dict[str, Output]]:
    """Cut the outputs into files as transformers does. Raises RecipeProblem for a size that is none."""
    from huggingface_hub import split_state_dict_into_shards_factory

    try:
        split = split_state_dict_into_shards_factory(
            outputs, get_storage_size=lambda output: output.entry.size, max_shard_size=max_shard_size,
            filename_pattern="model{suffix}.safetensors",
        )  # fmt: skip
    except ValueError as error:
        raise RecipeProblem(f"merge: max_shard_size {max_shard_size!r} is no size; write 2GB or 500MB.") from error
    return {file: {name: outputs[name] for name in names} for file, names in split.filename_to_tensors.items()}
