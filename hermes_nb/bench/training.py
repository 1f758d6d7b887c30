"""DPO measured: the same pairs, model, adapter and loss, computed by TRL and by this package in turn."""

import importlib.util
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from hermes_nb import formats, models, recipes, roofline, runs, runtime, templates
from hermes_nb.bench.sides import Side, flops, measured, scores, sides, taken_apart, trainer_of
from hermes_nb.errors import RecipeProblem, ResourceProblem

# pairs/s against TRL's defaults, and peak memory above the loaded model
BARS = {
    "ultrafeedback": {"on the fly": ("at least", 2.0), "cached": ("at least", 2.5), "memory": ("at most", 0.7)},
    "orca": {"on the fly": ("at least", 1.6), "cached": ("at least", 2.0), "memory": ("at most", 0.7)},
}
CUDA_BARS = {"on the fly": ("at least", 2.5), "share_of_roofline": ("at least", 0.45)}
MODELS = ("builtin", "mistral-7b-shape")
KNOWN = ("ultrafeedback", "hh", "orca")
COMPARED = ("trl, defaults", "packed, on the fly")  # whose log-probabilities are held against each other


def lengths(kind: str, tokenizer) -> list[tuple[int, int, int]]:
    """Tokens of (prompt, chosen, rejected) of real pairs: shipped for `KNOWN` sets, else counted in a file of pairs."""
    if kind in KNOWN:
        data = json.loads(runtime.find_file("lengths.json").read_text(encoding="utf-8"))
        return [tuple(row) for row in data[kind]]
    rows = formats.load(formats.detect(kind), kind)
    if "chosen" not in rows.column_names:
        raise RecipeProblem(f"{kind}: no pairs; give a file of pairs, or one of {', '.join(KNOWN)}.")
    return [tuple(map(len, templates.pair_ids(tokenizer, row))) for row in rows]


def made(triples: list[tuple[int, int, int]], tokenizer, vocab: int) -> list[dict]:
    """Tokenized pairs of these lengths, cut from the sample texts in order, so that no two are alike."""
    topics = formats.raw_rows(runtime.find_file("topics_train.jsonl"))
    text = " ".join(f"{topic['prose']} {topic['vague']}" for topic in topics)
    stream = [i % vocab for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    at, out = 0, []
    for triple in triples:
        row = {}
        for name, n in zip(("prompt_ids", "chosen_ids", "rejected_ids"), triple, strict=True):
            row[name] = [stream[(at + k) % len(stream)] for k in range(n)]
            at += n + 7
        out.append(row)
    return out


def drawn(triples: list[tuple[int, int, int]], count: int, max_length: int, seed: int) -> list[tuple[int, int, int]]:
    """`count` of those that fit `max_length`, by the seed."""
    fitting = [t for t in triples if t[0] + max(t[1:]) <= max_length and min(t) > 1]
    if len(fitting) < count:
        raise RecipeProblem(f"{len(fitting)} pairs fit {max_length} tokens, {count} are needed; ask for fewer.")
    return random.Random(seed).sample(fitting, count)


def _model(name: str):
    """The base in 4 bits, and the tokenizer that makes its token ids."""
    tokenizer = models.tokenizer("builtin", "chatml")
    if name == "builtin":
        return models.load_4bit("builtin"), tokenizer
    if name not in MODELS:
        raise RecipeProblem(f"no model {name!r}; there are {', '.join(MODELS)}.")
    if not torch.cuda.is_available():
        raise ResourceProblem(f"{name} has 7 billion random weights and is measured on a GPU; take --model builtin.")
    return models.random_4bit(roofline.MISTRAL_7B), tokenizer


def peak_flops() -> tuple[float, str]:
    """FLOP/s of this chip at 16 bits, from its sheet; else that of a large product, measured; and which it is."""
    here = runtime.machine()
    known = roofline.gpu_of(here.chip)
    if known:
        return known.peak, "data sheet"
    dtype, n = getattr(torch, here.dtype), 1536
    a, b = (torch.randn(n, n, dtype=dtype, device=here.device) for _ in range(2))
    best = min(_timed(lambda: a @ b) for _ in range(8))
    return 2 * n**3 / best, f"a product of {n} x {n} matrices, measured"


def _timed(call) -> float:
    begun = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def dpo(
    kind: str = "ultrafeedback", model: str = "builtin", pairs: int = 4, repeats: int = 3, max_length: int = 1024,
    rank: int = 16, checkpointing: bool = False, seed: int = 0, against: str = "trl",
) -> dict:  # fmt: skip
    """Measure a DPO step of `pairs` pairs with the lengths of `kind`, every side once a repeat, in turn.

    Returns plain data: per side `pairs_s`, `tokens_s` (real tokens, prompts once), `gb` above the loaded model,
    `share_of_roofline` and its passes; `ratios` of pairs/s to TRL's defaults with their spread; what padding and
    prompts computed twice cost TRL; the largest difference of a token's log-probability; and `misses`, the bars that
    do not hold. Raises RecipeProblem for unknown names, ResourceProblem for a model that needs a GPU.
    """
    left_out = {name: _absent(name) for name in against.split(",") if name != "trl"}
    base, tokenizer = _model(model)
    vocab = base.get_input_embeddings().weight.shape[0]
    triples = drawn(lengths(kind, tokenizer), pairs * repeats, max_length, seed)
    every = [triples[i * pairs : (i + 1) * pairs] for i in range(repeats)]
    rounds, tokens = [], 0
    with tempfile.TemporaryDirectory() as work:
        for part in every:
            rows, found = made(part, tokenizer, vocab), {}
            for side in sides(checkpointing):
                wrapped = models.add_lora(base, recipes.Lora(r=rank, alpha=2 * rank))
                trainer = trainer_of(side, wrapped, tokenizer, rows, pairs, tokens, _folder(work, side))
                tokens = trainer.budget.tokens if side.packed else tokens
                measured(side, trainer, rows[:1])  # the first pass makes what later ones find
                found[side.name] = measured(side, trainer, rows)
                if side.name in COMPARED:
                    found[side.name]["scores"] = scores(trainer, rows)
                base = taken_apart(trainer, wrapped)
                del trainer, wrapped
            rounds.append(found)
    setting = {"lengths": kind, "model": model, "pairs": pairs, "max_length": max_length, "rank": rank,
               "checkpointing": checkpointing, "tokens_at_once": tokens, "left_out": left_out}  # fmt: skip
    return told(rounds, every, roofline.shape_of(base.config, model), setting)


def _absent(name: str) -> str:
    """Why nothing is measured against `name`, in words. RecipeProblem where it is nothing that could be."""
    if name != "unsloth":
        raise RecipeProblem(f"nothing is measured against {name!r}; there are trl and unsloth.")
    if importlib.util.find_spec(name) is None:
        return "not installed here"
    return "it replaces TRL's classes in the whole process, and loads models from the hub only: run its own notebook"


def told(rounds: list[dict], every: list[list[tuple]], shape: roofline.Shape, setting: dict) -> dict:
    """Rates, ratios with their spread, and the bars that were missed."""
    peak, origin = peak_flops()
    out = {}
    for side in sides(setting["checkpointing"]):
        seconds = [found[side.name]["step"] for found in rounds]
        work = [flops(side, shape, part, setting["rank"]) for part in every]
        out[side.name] = {
            "pairs_s": statistics.median(len(p) / s for p, s in zip(every, seconds, strict=True)),
            "tokens_s": statistics.median(_tokens(p) / s for p, s in zip(every, seconds, strict=True)),
            "gb": max(found[side.name]["gb"] or 0.0 for found in rounds),
            "share_of_roofline": statistics.median(w / s / peak for w, s in zip(work, seconds, strict=True)),
            "passes": passes(side),
        }
    ratios = {name: _spread(values) for name, values in _ratios(rounds).items()}
    on_cpu = BARS.get(setting["lengths"], {}) if runtime.machine().device == "cpu" else {}
    bars = CUDA_BARS if setting["model"] == "mistral-7b-shape" else on_cpu
    share = out["packed, on the fly"]["share_of_roofline"]
    values = {name: ratio["median"] for name, ratio in ratios.items()} | {"share_of_roofline": share}
    return {
        **setting, "repeats": len(rounds), "sides": out, "ratios": ratios, "share_of_roofline": share,
        "peak": {"flops": peak, "origin": origin}, "padding": _padding(every),
        "largest difference, nats a token": max(_difference(found) for found in rounds),
        "bars": bars, "misses": [n for n, bar in bars.items() if n in values and not holds(bar, values[n])],
        "machine": runtime.machine().chip, "cores": runtime.machine().cores, "versions": runs.versions(),
    }  # fmt: skip


def _folder(work: str, side: Side) -> Path:
    """A folder of its own for each side, since an engine goes on with what it finds."""
    out = Path(work) / side.name.replace(" ", "-")
    out.mkdir(exist_ok=True)
    return out


def passes(side: Side) -> str:
    """The passes over the model that a step of this side takes, in words."""
    forward = ["forward", "backward"] + (["recomputed forward"] if side.checkpointing else [])
    return ", ".join(forward if side.cached else ["reference", *forward])


def _ratios(rounds: list[dict]) -> dict[str, list[float]]:
    """Of every repeat: pairs/s against TRL's defaults, and against the better of its best settings; memory."""
    out: dict[str, list[float]] = {}
    for found in rounds:
        step = {name: side["step"] for name, side in found.items()}
        trl, best = step["trl, defaults"], min(step["trl, cached, whole"], step["trl, cached, one by one"])
        once = found["packed, cached"]["reference"]
        row = {
            "on the fly": trl / step["packed, on the fly"], "cached": trl / step["packed, cached"],
            "three epochs, the reference pass counted": 3 * trl / (3 * step["packed, cached"] + once),
            "cached, against the best of TRL's settings": best / step["packed, cached"],
        }  # fmt: skip
        if found["trl, defaults"]["gb"]:
            row["memory"] = max(found[n]["gb"] for n in step if "packed" in n) / found["trl, defaults"]["gb"]
        for name, value in row.items():
            out.setdefault(name, []).append(value)
    return out


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def holds(bar: tuple[str, float], value: float) -> bool:
    """Whether a measured value meets its bar."""
    return value >= bar[1] if bar[0] == "at least" else value <= bar[1]


def _tokens(pairs: list[tuple[int, int, int]]) -> int:
    return sum(map(sum, pairs))


def _padding(every: list[list[tuple]]) -> dict[str, float]:
    """Of what TRL lays in one batch, the share that is padding, and that is a prompt's second copy."""
    laid = sum(2 * len(part) * max(p + max(c, r) for p, c, r in part) for part in every)
    twice = sum(p for part in every for p, _, _ in part)
    real = sum(map(_tokens, every))
    return {"padding": (laid - real - twice) / laid, "prompts again": twice / laid}


def _difference(found: dict) -> float:
    """Largest difference (nats) of an answer token's log-probability between TRL's rows and packed ones."""
    trl, ours = (found[name]["scores"] for name in COMPARED)
    return (trl - ours).abs().max().item()
