"""`bench merge`: the streaming merge beside a copy of the same files, bitsandbytes' own quantizing, and PEFT's merge.

Every side is a process of its own, so that its peak memory is its own. Lesson: 04_merge.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from hermes_nb import merge, roofline, runs, runtime
from hermes_nb.bench.checkpoints import make_adapter, make_base
from hermes_nb.errors import RecipeProblem, ResourceProblem

SHAPES = {
    # config.json of TinyLlama/TinyLlama-1.1B-Chat-v1.0
    "1b": roofline.Shape("TinyLlama-1.1B", 2048, 22, 256, 5632, 32000, False),
    "7b": roofline.MISTRAL_7B,
}
BARS = {
    "peak memory, GB": ("at most", 1.5),
    "onto the original over cp": ("at most", 2.0),
    "onto the dequantized over cp and quantizing": ("at most", 1.3),
}
RANK = 16  # of the adapter that is merged
CHILD = "import sys; from hermes_nb.bench.merging import child; child(*sys.argv[1:])"
STATUS = Path("/proc/self/status")


def merging(size: str = "1b", repeats: int = 3, shape: roofline.Shape | None = None, folder=None) -> dict:
    """Measure the merge of an adapter (`RANK`, all linear layers) into a bf16 model of `size` with random weights.

    Sides: `cp` (copy and flush the files), `original` and `dequantized` (our merge, saved in bf16 and float16; of the
    second also the seconds within bitsandbytes' quantize call), `peft` (load in bf16, merge_and_unload, save) where
    memory reaches.
    Returns plain data: seconds and peak memory (GB above a bare interpreter's) of every side, ratios with their
    spread against `BARS`, the memory curve of one merge, and `misses`. `folder` is where the files are made.
    Raises RecipeProblem for an unknown size, ResourceProblem when the disk is too small, a side fails, or the system
    is not Linux.
    """
    if shape is None and size not in SHAPES:
        raise RecipeProblem(f"no size {size!r}; there are {', '.join(SHAPES)}.")
    if not STATUS.is_file():
        raise ResourceProblem(
            f"bench merge: no {STATUS} here, from which a process's peak memory is read; measure on Linux. The merge "
            f"itself needs no such file."
        )
    shape = shape or SHAPES[size]
    gigabytes = 2 * roofline.parameters(shape) / 1e9
    with tempfile.TemporaryDirectory(dir=folder, prefix="hermes-merge-") as work:
        runtime.need_disk(Path(work), 2.2 * gigabytes)
        base = make_base(Path(work) / "base", shape)
        adapter = make_adapter(Path(work) / "adapter", shape, RANK)
        kinds = ["cp", "original", "dequantized"]
        left_out = _too_large(gigabytes)
        kinds += [] if left_out else ["peft"]
        rounds = [{kind: _measured(kind, base, adapter, Path(work) / "out") for kind in kinds} for _ in range(repeats)]
    return told(rounds, shape, repeats, left_out)


def _too_large(gigabytes: float) -> str:
    """Why PEFT's merge cannot be measured here; empty where it can."""
    free = psutil.virtual_memory().available / 1e9
    return f"needs about {1.5 * gigabytes:.0f} GB, {free:.0f} GB are free" if 1.5 * gigabytes > free else ""


def _measured(kind: str, base: Path, adapter: Path, out: Path) -> dict:
    """Seconds and peak memory of one side; what it writes is deleted again."""
    try:
        if kind == "cp":
            return {"seconds": _copied(base, out)}
        command = [sys.executable, "-c", CHILD, kind, str(base), str(adapter), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no word, as when the system ends what takes too much memory"]
            raise ResourceProblem(f"bench merge: side {kind} ended with status {done.returncode}: {said[-1]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _copied(base: Path, out: Path) -> float:
    """Seconds in which `cp` copies the weights and they are on the disk."""
    out.mkdir()
    begun = time.perf_counter()
    subprocess.run(["cp", *map(str, base.glob("*.safetensors")), str(out)], check=True)
    subprocess.run(["sync", "-f", str(out)], check=True)
    return time.perf_counter() - begun


def child(kind: str, base: str, adapter: str, out: str) -> None:
    """One side in a process of its own: prints seconds, peak memory and, of a merge, the memory after each tensor."""
    import bitsandbytes  # noqa: F401  (what is imported is not part of the time)
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM, MistralForCausalLM  # noqa: F401

    runtime.quiet()
    curve, bare = [], _bare()
    begun = time.perf_counter()

    def watch(done: int, total: int, name: str) -> None:
        curve.append([round(time.perf_counter() - begun, 2), round(_status("VmRSS") - bare, 3), done])

    spent = _timed_quantizing()
    if kind == "peft":
        _by_peft(base, adapter, out)
    else:
        dtype = "bfloat16" if kind == "original" else "float16"
        merge.merge(base, adapter, out, kind, dtype, template="chatml", watch=watch)
    told = {"seconds": time.perf_counter() - begun, "gb": round(_status("VmHWM") - bare, 3), "quantize": sum(spent)}
    print(json.dumps(told | {"curve": curve[:: -max(1, len(curve) // 100)][::-1]}))


def _timed_quantizing() -> list[float]:
    """Let bitsandbytes' quantize call add its seconds to the list that is returned."""
    from bitsandbytes import functional

    spent, call = [], functional.quantize_4bit

    def timed(*args, **kwargs):
        begun = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - begun)

    functional.quantize_4bit = timed
    return spent


def _bare() -> float:
    """Resident memory (GB) of an interpreter that has imported nothing."""
    code = f"print(next(l for l in open('{STATUS}') if l.startswith('VmRSS')).split()[1])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(told.stdout) * 1024 / 1e9


def _status(key: str) -> float:
    """A line of /proc/self/status in GB."""
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith(key)).split()[1]) * 1024 / 1e9


def _by_peft(base: str, adapter: str, out: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="2GB")


def told(rounds: list[dict], shape: roofline.Shape, repeats: int, left_out: str) -> dict:
    """The rounds as plain data: sides, ratios of each round with median and spread, what misses its bar."""
    ratios = {"peak memory, GB": [max(r[k]["gb"] for k in ("original", "dequantized")) for r in rounds]}
    ratios["onto the original over cp"] = [r["original"]["seconds"] / r["cp"]["seconds"] for r in rounds]
    ratios["onto the dequantized over cp and quantizing"] = [
        r["dequantized"]["seconds"] / (r["cp"]["seconds"] + r["dequantized"]["quantize"]) for r in rounds
    ]
    if not left_out:
        ratios["PEFT's seconds over ours"] = [r["peft"]["seconds"] / r["original"]["seconds"] for r in rounds]
        ratios["PEFT's peak over ours"] = [r["peft"]["gb"] / r["original"]["gb"] for r in rounds]
    spread = {k: {"median": statistics.median(v), "min": min(v), "max": max(v)} for k, v in ratios.items()}
    sides = {
        kind: {
            key: statistics.median(r[kind][key] for r in rounds) for key in ("seconds", "gb", "quantize") if key in one
        }
        for kind, one in rounds[0].items()
    }
    here = runtime.machine()
    return {
        "shape": shape.name, "parameters": roofline.parameters(shape), "repeats": repeats, "sides": sides,
        "ratios": spread, "bars": BARS, "misses": [k for k, bar in BARS.items() if spread[k]["median"] > bar[1]],
        "left_out": {"peft": left_out} if left_out else {}, "curve": rounds[0]["original"]["curve"],
        "machine": here.chip, "device": here.device, "cores": psutil.cpu_count(), "versions": runs.versions(),
    }  # fmt: skip
