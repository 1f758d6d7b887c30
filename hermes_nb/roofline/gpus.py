"""What a GPU can do at best: dense 16-bit products with fp32 sums, memory, bandwidth.

Sources, read as dense (the sheets of Ada and Hopper print twice that, with sparsity): A100
https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
(40 GB: 1,555 GB/s, https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf),
H100 and H200 in the SXM form https://www.nvidia.com/en-us/data-center/h100/, https://www.nvidia.com/en-us/data-center/h200/,
L4 https://www.nvidia.com/en-us/data-center/l4/, T4 https://www.nvidia.com/en-us/data-center/tesla-t4/, RTX 4090
https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf (330 with 16-bit sums, half of
that with fp32 sums, which training needs).
"""

import re
from dataclasses import dataclass

from hermes_nb.errors import RecipeProblem
from hermes_nb.roofline.shape import Shape, linear_parameters


@dataclass(frozen=True)
class Gpu:
    """A GPU: peak in TFLOP/s (16-bit in, fp32 sums, dense), memory in GB and GB/s, compute capability.

    `words` are those by which its name, as the driver says it, is known.
    """

    name: str
    tflops: float
    memory_gb: float
    bandwidth: float
    capability: tuple[int, int]
    words: tuple[str, ...]

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return self.tflops * 1e12


GPUS = {
    g.name: g
    for g in (
        Gpu("a100-40", 312, 40, 1555, (8, 0), ("a100", "40gb")),
        Gpu("a100-80", 312, 80, 2039, (8, 0), ("a100", "80gb")),
        Gpu("h100", 989, 80, 3350, (9, 0), ("h100", "hbm3")),
        Gpu("h200", 989, 141, 4800, (9, 0), ("h200",)),
        Gpu("l4", 121, 24, 300, (8, 9), ("l4",)),
        Gpu("t4", 65, 16, 320, (7, 5), ("t4",)),  # fp16 alone: it only emulates bf16
        Gpu("rtx4090", 165, 24, 1008, (8, 9), ("rtx", "4090")),
    )
}
OTHERS = {"nvl", "laptop", "d"}  # slower namesakes
# NF4 to 16 bits, a weight: half a byte and a share of a scale (4 bytes for 64) are read, 2 bytes are written
DEQUANTIZED = 0.5 + 4 / 64 + 2


def gpu(name: str) -> Gpu:
    """The GPU of that name. Raises RecipeProblem naming the known ones."""
    if name not in GPUS:
        raise RecipeProblem(f"no GPU {name!r}; there are {', '.join(GPUS)}.")
    return GPUS[name]


def gpu_of(chip: str) -> Gpu | None:
    """The GPU that the driver calls `chip`, such as `NVIDIA A100-SXM4-40GB`; None for one that is not in the table."""
    said = set(re.split(r"[^a-z0-9]+", chip.lower()))
    found = [g for g in GPUS.values() if said.issuperset(g.words)]
    return found[0] if found and not said & OTHERS else None


def share(flops: float, seconds: float, chip: Gpu) -> float:
    """Share of the roofline: what was computed, over what `chip` could have computed in `seconds`."""
    return flops / (seconds * chip.peak)


def dequantization_bytes(shape: Shape) -> float:
    """Bytes that one pass over the NF4 weights moves to make 16-bit weights of them (17.9 GB for 7B)."""
    return DEQUANTIZED * linear_parameters(shape)


def dequantization_seconds(shape: Shape, chip: Gpu) -> float:
    """Seconds of one such pass at full bandwidth; each forward, backward and recomputing of a micro-batch is one."""
    return dequantization_bytes(shape) / (chip.bandwidth * 1e9)
