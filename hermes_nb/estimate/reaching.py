"""How much of its peak a GPU reaches: measured where a benchmark of that chip is there, else an assumption.

The assumption is one number for all chips: 2,415 tokens/s, which LLaMA-Factory's wiki reports for 4-bit LoRA of
LLaMA-2-7B on an A100 (r = 8, batches of 4, rows of 1024; quoted in https://github.com/unslothai/unsloth at 0439b85),
are 31 % of 312 TFLOP/s, when recomputing is counted as work. Newer chips may reach less of their larger peaks.
"""

import json
from dataclasses import dataclass

from hermes_nb.roofline import Gpu, Shape, dequantization_seconds, gpu_of
from hermes_nb.runtime import samples_dir

ASSUMED = 0.31


@dataclass(frozen=True)
class Speed:
    """Share of the peak that is reached, whether it was `measured` on this chip, and its origin in words."""

    share: float
    measured: bool
    origin: str

    def seconds(self, flops: float, chip: Gpu, shape: Shape, passes: float) -> float:
        """Seconds that `flops` take; `passes` over the NF4 weights come on top of an assumed share, not a measured one.

        A measured share was taken of whole steps, dequantization and all.
        """
        extra = 0 if self.measured else passes * dequantization_seconds(shape, chip)
        return flops / (self.share * chip.peak) + extra


def speed(chip: Gpu) -> Speed:
    """The share for `chip`: the least that data_samples/benchmarks/dpo_*.json report for it, else the assumption."""
    found = {}
    for file in sorted((samples_dir() / "benchmarks").glob("dpo_*.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        here = gpu_of(told["machine"]) if {"machine", "share_of_roofline"} <= told.keys() else None
        if here == chip:
            found[told["share_of_roofline"]] = file.name
    if found:
        return Speed(min(found), True, f"measured on this chip, {found[min(found)]}")
    return Speed(ASSUMED, False, "assumed, not measured on this chip: a published 4-bit LoRA run on an A100")
