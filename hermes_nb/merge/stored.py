"""Safetensors folders as one table of tensors: checked before use, read in pieces, written file by file.

A file is opened anew for each tensor and read a few rows at a time: its pages are mapped into memory, where they count
as this process's own for as long as the file is open. Format: https://github.com/huggingface/safetensors#format.
Lesson: 04_merge.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hermes_nb.errors import FileProblem

INDEX = "model.safetensors.index.json"
FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # torch's name to the format's
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLUSH = 2**28  # bytes
PIECE = 2**20  # entries worked on at once: 4 MB in fp32, which a processor keeps beside it


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, its format's name (such as BF16) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that the tensor takes on the disk."""
        return math.prod(self.shape) * BYTES[self.dtype]


def table(folder: Path | str) -> dict[str, Entry]:
    """All tensors of a model folder, name to `Entry`, in the order of its files; every file is opened once.

    Raises FileProblem, naming file and tensor, when there are no safetensors, a file is missing or damaged, the index
    names a tensor that its file does not hold, or a tensor's format is none that can be merged.
    """
    folder = Path(folder)
    index = _index(folder)
    files = sorted(set(index.values())) if index else sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        raise FileProblem(f"{folder}: holds no .safetensors; save the model again with transformers.")
    found = {}
    for name in files:
        for key, entry in entries(folder / name).items():
            if key in found:
                raise FileProblem(f"{folder}: {key} lies in {found[key].file.name} and in {name}; fetch it again.")
            if not index or key in index:
                found[key] = entry
    for key, name in index.items():
        if key not in found or found[key].file.name != name:
            raise FileProblem(f"{folder / INDEX}: says that {key} lies in {name}, which is not so; fetch it again.")
    return found


def _index(folder: Path) -> dict[str, str]:
    """Tensor name to file name, as the folder's index says; empty where there is none."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(key): os.path.basename(name) for key, name in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileProblem(f"{path}: damaged ({type(error).__name__}); fetch it again.") from error


def entries(file: Path) -> dict[str, Entry]:
    """The tensors of one file. Raises FileProblem when it is missing, damaged, or of an unknown format."""
    if not file.is_file():
        raise FileProblem(f"{file}: missing; fetch or make that folder again.")
    try:
        with safe_open(file, "pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (safe_open is no mapping)
            found = {key: Entry(file, s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise FileProblem(f"{file}: damaged ({error}); fetch or make that folder again.") from error
    for key, entry in found.items():
        if entry.dtype not in BYTES:
            raise FileProblem(f"{file}: {key} is stored as {entry.dtype}; only plain numbers can be merged.")
    return found


def read(entry: Entry, key: str):
    """The whole tensor, as stored."""
    with safe_open(entry.file, "pt") as opened:
        return opened.get_tensor(key)


def pieces(entry: Entry, key: str) -> Iterator:
    """The tensor as stored, in pieces of whole rows (of its first dimension), at most `PIECE` entries where it can."""
    if not entry.shape:
        yield read(entry, key)
        return
    with safe_open(entry.file, "pt") as opened:
        part = opened.get_slice(key)
        for first, last in row_blocks(entry.shape):
            yield part[first:last]


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Rows (first, last + 1) of a tensor of `shape` that are worked on at once: whole 64s, the last with what is left.

    A product of matrices is then the same in pieces as it is whole: a library multiplies the last few rows of a matrix
    by other means, and a piece of few rows would all be such.
    """
    rows = PIECE // max(1, math.prod(shape[1:]))
    rows = max(64, rows - rows % 64)
    count = max(1, shape[0] // rows)
    for number in range(count):
        yield number * rows, shape[0] if number == count - 1 else (number + 1) * rows


def header(tensors: dict[str, Entry]) -> bytes:
    """The beginning of a safetensors file that holds `tensors`, in their order: length, JSON, padding to 8 bytes."""
    told, at = {"__metadata__": {"format": "pt"}}, 0
    for key, entry in tensors.items():
        told[key] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, at + entry.size]}
        at += entry.size
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_size(tensors: dict[str, Entry]) -> int:
    """Bytes of a file with `tensors`."""
    return len(header(tensors)) + sum(entry.size for entry in tensors.values())


def write(path: Path, tensors: dict[str, Entry], parts: Iterable) -> None:
    """Write a safetensors file of `tensors` from `parts`: their values one after another, in pieces of any size.

    The file gets its name when all of it is on the disk; that is asked for every `FLUSH` bytes in a thread of its own,
    so that there is little to wait for at the end. Raises FileProblem when the pieces do not fill it exactly.
    """
    work = path.with_name(f".{path.name}.part")
    with ThreadPoolExecutor(1) as flushing, open(work, "wb") as file:
        asked, flushed = None, file.write(header(tensors))
        for part in parts:
            file.write(_bytes(part))
            if file.tell() - flushed > FLUSH and (asked is None or asked.done()):
                _raised(asked)
                asked, flushed = flushing.submit(os.fsync, file.fileno()), file.tell()
        file.flush()
        _raised(asked)
        flushing.submit(os.fsync, file.fileno()).result()
        written = file.tell()
    if written != file_size(tensors):
        raise FileProblem(f"{path}: {written} bytes written for {file_size(tensors)}; its source changed meanwhile.")
    os.replace(work, path)


def _raised(asked) -> None:
    """Raise what a flush has met: the system tells a failed write once, and the next flush would say nothing of it."""
    if asked:
        asked.result()


def finite(tensor) -> bool:
    """Whether all numbers are finite. One that is not makes the sum so: a single pass, where `isfinite` takes three."""
    import torch

    return not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())


def _bytes(tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in row order, without a copy."""
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
