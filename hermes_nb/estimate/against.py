"""The estimate against two published durations, with the one assumption on speed that all others use.

Both trained with TRL of winter 2023/24: padded rows, the head on every position, the reference computed in each step,
gradient checkpointing. Nothing is fitted to either of them.
"""

from dataclasses import dataclass

from hermes_nb import roofline
from hermes_nb.estimate.bases import OPENHERMES_7B
from hermes_nb.estimate.plan import cut, work
from hermes_nb.estimate.reaching import ASSUMED, Speed
from hermes_nb.estimate.rows import lengths

CLOSE = 0.3  # a ratio within 1 +- this needs no explanation


@dataclass(frozen=True)
class System:
    """A published run: rows of each measured kind, what is known of its sizes, its duration, why we may be off."""

    name: str
    gpu: str
    rows: dict[str, int]
    at_once: int  # pairs a micro-batch
    max_length: int
    hours: float
    source: str
    why: str


NEURALHERMES = System(
    "NeuralHermes-2.5-Mistral-7B", "a100-40", {"orca": 200 * 16}, 4, 1536, 1.0,
    "200 steps of 16 pairs, https://huggingface.co/mlabonne/NeuralHermes-2.5-Mistral-7B",
    "its notebook left bitsandbytes' defaults (fp4, fp32 arithmetic), and lengths are those of another tokenizer",
)  # fmt: skip
# 0.6 epoch of 12,859 Orca pairs and 63,619 UltraFeedback pairs; sizes of a micro-batch and of a row are not published
DPOPENHERMES = System(
    "DPOpenHermes-7B", "h100", {"orca": round(0.6 * 12_859), "ultrafeedback": round(0.6 * 63_619)}, 4, 4096, 10.0,
    "0.6 epoch of two sets, https://huggingface.co/openaccess-ai-collective/DPOpenHermes-7B",
    "its micro-batch and row lengths are not published (4 pairs, uncut, are ours), and the assumed share is an A100's: "
    "kernels of 2023 reached less of an H100's peak, the less the smaller the micro-batch",
)  # fmt: skip


def published() -> list[dict]:
    """Both systems: `hours` as estimated and as published, their `ratio`, and `why` where it is off by over 30 %."""
    return [_one(system) for system in (NEURALHERMES, DPOPENHERMES)]


def _one(system: System) -> dict:
    chip, shape = roofline.gpu(system.gpu), OPENHERMES_7B
    reached = Speed(ASSUMED, False, "")
    adapter = roofline.adapter_parameters(shape, 16)
    flops = 0.0
    for kind, count in system.rows.items():
        laid = work("dpo", [cut(n, system.max_length) for n in lengths(kind)], system.at_once, "padded", head="all")
        flops += count * roofline.training(shape, laid, adapter, checkpointing=True, reference=True)
    pairs = sum(system.rows.values())
    hours = reached.seconds(flops, chip, shape, passes=4 * pairs / system.at_once) / 3600
    ratio = hours / system.hours
    return {
        "system": system.name, "gpu": system.gpu, "pairs": pairs, "flops": flops, "hours": hours,
        "published_hours": system.hours, "ratio": ratio, "why": "" if abs(ratio - 1) <= CLOSE else system.why,
        "source": system.source,
    }  # fmt: skip
