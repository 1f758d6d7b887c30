"""Which base and which number format: measured for this adapter where `compare` was run, else by rule; in a sentence.

Lesson: 04_merge.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import runs
from hermes_nb.errors import RecipeProblem
from hermes_nb.models.adapters import WEIGHTS
from hermes_nb.runtime import machine

NEAR = 1.25  # a KL at most this many times the lowest one is as good; the smaller file is taken then
FLOOR = 1e-7  # nats a token: below it a KL is what rounding leaves, on either side of 0
BITS = {"float16": 16, "bfloat16": 16, "float32": 32}


@dataclass(frozen=True)
class Choice:
    """What an adapter is merged onto, in which format it is saved, and why."""

    onto: str
    dtype: str
    reason: str


def choose(adapter: Path | str, onto: str = "auto", dtype: str = "auto") -> Choice:
    """Decide what is `auto`: as `compare` measured for this very adapter, else by rule.

    The measurement lies in `reports/merge.json` of the run that the adapter is of.
    """
    if onto != "auto" and dtype != "auto":
        return Choice(onto, dtype, "as asked for")
    report = Path(adapter).parent.parent / "reports" / "merge.json"
    found = runs.read_json(report).get("metrics", {}) if report.is_file() else {}
    if found.get("adapter") == runs.file_digest(Path(adapter) / WEIGHTS):
        fitting = {name: c for name, c in found["candidates"].items()
                   if onto in ("auto", c["onto"]) and dtype in ("auto", c["dtype"])}  # fmt: skip
        if fitting:
            return best(fitting, found["kl_without_adapter"])
    device = machine().device
    why = (["onto the dequantized base, on which the adapter was trained"] if onto == "auto" else []) + (
        [reason(device)] if dtype == "auto" else []
    )
    onto = "dequantized" if onto == "auto" else onto
    dtype = choose_dtype(device) if dtype == "auto" else dtype
    return Choice(onto, dtype, f"{'; '.join(why)}; by rule, not measured for this adapter")


def best(candidates: dict[str, dict], bare: float) -> Choice:
    """The candidate nearest to the trained model, or one nearly as near in a smaller file, with the figures.

    `candidates` is name to `onto, dtype, kl` (nats a token); `bare` is the KL of the base without the adapter. What
    lies below `FLOOR` counts as equal. Raises RecipeProblem naming a candidate whose KL is no number.
    """
    for name, told in candidates.items():
        if not math.isfinite(told["kl"]):
            raise RecipeProblem(
                f"{name}: its KL is {told['kl']}, so that merged model computes no numbers in {told['dtype']}; leave "
                f"this candidate out, or try bfloat16, which has the range of float32."
            )
    far = {name: max(told["kl"], FLOOR) for name, told in candidates.items()}
    order = sorted(candidates, key=lambda name: (far[name], BITS[candidates[name]["dtype"]]))
    near = [name for name in order if far[name] <= NEAR * far[order[0]]]
    taken = min(near, key=lambda name: (BITS[candidates[name]["dtype"]], far[name]))
    mine, others = candidates[taken], [name for name in order if name != taken]
    told = f"{taken}: KL {_kl(mine['kl'])} nats a token from the trained model"
    if taken != order[0]:
        told += f", as near as {order[0]} ({_kl(candidates[order[0]]['kl'])}) in half the size"
    farther = [name for name in others if far[name] > NEAR * far[taken]]
    if farther:
        told += f"; {farther[0]} is {far[farther[0]] / far[taken]:.1f} times as far"
    return Choice(mine["onto"], mine["dtype"], f"{told}; without the adapter {bare:.1e}")


def _kl(value: float) -> str:
    return f"{value:.1e}" if value > FLOOR else f"below {FLOOR:.0e}"


def choose_dtype(device: str) -> str:
    """The format to save in, by rule: one whose steps are finer than a DPO-sized delta.

    bf16 keeps 8 bits of each weight and rounds most of such a delta away: of our DPO runs on the built-in model a bf16
    merge lost the learned stopping (65 % of greedy answers ended, merged 25 %). fp16 keeps 11 bits at the same size;
    a CPU computes it slowly, so there fp32.
    """
    return "float16" if device == "cuda" else "float32"


def reason(device: str) -> str:
    """The choice of `choose_dtype` and why, in one sentence."""
    why = {
        "float16": "the size of bf16 but 11 significant bits against 8, so a DPO-sized delta survives",
        "float32": "a DPO-sized delta survives, and a CPU computes fp16 slowly",
    }
    dtype = choose_dtype(device)
    return f"saved as {dtype} on {device}: {why[dtype]}"
