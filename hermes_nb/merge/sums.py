"""The sum itself, a few rows at a time: W + (alpha / r) B A in fp32, rounded once.

LoRA: https://arxiv.org/abs/2106.09685, section 4.1. DoRA: https://arxiv.org/abs/2402.09353, Eq. 5. Lesson: 04_merge.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from hermes_nb.errors import FileProblem
from hermes_nb.merge import stored
from hermes_nb.merge.changes import Change
from hermes_nb.merge.plan import Output, Plan
from hermes_nb.models.nf4 import BLOCK, SCALES


@contextmanager
def threads(count: int) -> Iterator[int]:
    """Let torch use `count` threads; gives the number it used before, and puts it back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def restored(parts: Iterable, trained_in: str, most: int = 1) -> Iterator:
    """A weight as training saw it, in pieces: NF4 with double quantization in blocks of 64, and back, in `trained_in`.

    `parts` are its rows in pieces of whole blocks, on the device. The same numbers as bitsandbytes gives for the whole
    weight: a block of 64 has its own scale, and only the scales are quantized together, around their common mean.
    QLoRA, https://arxiv.org/abs/2305.14314, section 3.
    """
    import torch
    from bitsandbytes import functional as bnb

    to, held = getattr(torch, trained_in), []
    with threads(most):
        for part in parts:
            how = {"blocksize": BLOCK, "quant_type": "nf4", "compress_statistics": False}
            held.append(bnb.quantize_4bit(part.to(to).contiguous(), **how))
        scales = torch.cat([state.absmax for _, state in held])
        mean = scales.mean()
        scales = bnb.dequantize_blockwise(*bnb.quantize_blockwise(scales - mean, blocksize=SCALES)) + mean
    for (packed, state), own in zip(held, scales.split([len(state.absmax) for _, state in held]), strict=True):
        state.absmax = own
        yield bnb.dequantize_4bit(packed, state)


def values(output: Output, plan: Plan, device: str = "cpu", most: int = 1) -> Iterator:
    """The numbers of one output in pieces of rows, on the CPU, in the format in which they are written.

    `most` is the number of threads for quantizing; the sums are bound by memory and made in the caller's own.
    Raises FileProblem naming the tensor when the sum cannot be written in that format, or the base is not finite.
    """
    import torch

    if output.entry.dtype not in stored.FLOATS.values():
        yield from stored.pieces(output.source[1], output.source[0])
        return
    to = getattr(torch, plan.dtype)
    adds = [_adding(change, device) for change in output.changes if "value" not in change.tensors]
    first = 0
    for part in _base(output, plan, device, most):
        total = part.float() if adds or part.dtype != to else part
        for add in adds:
            total = add(total, first)
        first += len(part) if part.dim() else 1
        saved = total.to(to).cpu()
        _check(saved, total, output, plan.dtype)
        yield saved


def _base(output: Output, plan: Plan, device: str, most: int) -> Iterator:
    """What is added to, in pieces of rows: the stored weight, the same through NF4, or one trained as a whole."""
    import torch

    whole = [change.tensors["value"] for change in output.changes if "value" in change.tensors]
    if whole:
        yield from (part.to(device) for part in stored.pieces(whole[-1][1], whole[-1][0]))
    elif output.quantized:
        yield from restored(_blocks(output, device), plan.trained_in, most)
    else:
        for part in stored.pieces(output.source[1], output.source[0]):
            yield part.to(device).to(getattr(torch, plan.trained_in)) if plan.onto == "dequantized" else part.to(device)


def _blocks(output: Output, device: str) -> Iterator:
    """The stored weight in pieces of whole NF4 blocks; as a whole where its rows are none."""
    name, entry = output.source
    parts = stored.pieces(entry, name) if entry.shape[-1] % BLOCK == 0 else [stored.read(entry, name)]
    return (part.to(device) for part in parts)


def matrices(change: Change, device: str = "cpu") -> dict:
    """A, B and, of DoRA, the magnitude of a change, in fp32."""
    return {part: stored.read(entry, key).to(device).float() for part, (key, entry) in change.tensors.items()}


def delta(change: Change, parts: dict, first: int, last: int):
    """scaling * B A of the weight's rows from `first` to before `last`; `parts` are the `matrices` of the change."""
    A, B = parts["A"], parts["B"]
    turned = change.turned or change.embedding
    return ((B @ A[:, first:last]).T if turned else B[first:last] @ A).mul_(change.scaling)


def _adding(change: Change, device: str) -> Callable:
    """A function (rows in fp32, number of the first) -> rows with this change."""
    parts = matrices(change, device)

    def add(rows, first: int):
        return delta(change, parts, first, first + len(rows)).add_(rows)

    def scale(rows, first: int):
        total = add(rows, first)
        return (parts["magnitude"][first : first + len(rows)] / total.norm(dim=1)).view(-1, 1) * total

    return scale if "magnitude" in parts else add


def _check(saved, total, output: Output, dtype: str) -> None:
    if stored.finite(saved):
        return
    if stored.finite(total):
        raise FileProblem(
            f"{output.name}: holds {total.abs().max().item():.3g}, more than {dtype} can; merge with dtype bfloat16."
        )
    raise FileProblem(
        f"{output.source[1].file}: {output.name} holds numbers that are not finite, or are too large for the format of "
        f"training; fetch it again."
    )
