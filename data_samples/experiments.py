"""Make the shipped experiments and adapters: `make experiments`, about 40 minutes on two cores.

Every curve, rate and answer that a notebook shows without running it comes from here: real runs of the built-in model
with one thing changed each, written to `experiments/NAME.json` with machine and versions. What is already there is
kept; name an experiment to make it anew: `python data_samples/experiments.py cut_stop`.
"""

import gc
import json
import shutil
import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hermes_nb import (
    audit,
    dpo,
    evaluate,
    formats,
    generate,
    history,
    lessons,
    merge,
    models,
    pipeline,
    recipes,
    reference,
    runs,
    runtime,
    sft,
)
from hermes_nb.merge import survival
from hermes_nb.training import fitting

HERE = Path(__file__).resolve().parent
OUT, WORK = HERE / "experiments", HERE.parent / "runs" / "experiments"
SEEDS = (0, 1, 2)
LONG = 160  # tokens an answer may have: enough for a card and one line more
SFT_SMALL = {"learning_rate": 1e-5, "max_steps": 10}

WITH_SFT = {"loss": ["sigmoid", "sft"], "loss_weights": [1, 1]}

# name: (title, overrides of the recipe `course`, file of pairs)
SFT = {
    "sft_lr_right": ("learning rate 1e-3", {}),
    "sft_lr_low": ("learning rate 1e-5: too low", {"learning_rate": 1e-5}),
    "sft_lr_high": ("learning rate 3e-2: too high", {"learning_rate": 3e-2}),
    "sft_neftune": ("NEFTune, noise alpha 5", {"neftune": 5.0}),
    "sft_small_fp32": ("10 steps at 1e-5, fp32 adapters", SFT_SMALL),
}
ROUNDED = {
    "sft_bf16": ("learning rate 1e-3, adapters rounded to bf16", {}),
    "sft_small_bf16": ("10 steps at 1e-5, adapters rounded to bf16", SFT_SMALL),
}
DPO = {
    "dpo_beta_01": ("beta 0.1", {}, None),
    "cut_stop": ("chosen goes on where rejected ends, and loses its stop token", {"max_length": 84}, "cut_stop.jsonl"),
    "cut_elsewhere": ("chosen cut in the middle, rejected ends elsewhere", {"max_length": 56}, "too_easy.jsonl"),
    "length_biased": ("chosen is the same card and one line more", {}, "length_biased.jsonl"),
    "too_easy": ("rejected is always the same short sentence", {}, "too_easy.jsonl"),
    "noisy": ("a fifth of the labels swapped", {}, "noisy.jsonl"),
    "cut_with_sft": ("the same cut rows, with an sft term", {"max_length": 84} | WITH_SFT, "cut_stop.jsonl"),
    "repair_loss": ("the same rows whole, with an sft term", WITH_SFT, "cut_stop.jsonl"),
    "dpo_beta_001": ("beta 0.01", {"beta": 0.01}, None),
    "dpo_beta_05": ("beta 0.5", {"beta": 0.5}, None),
    "dpo_packed": ("pairs laid one after another, as everywhere", {}, None),
    "dpo_padded": ("the same pairs in padded rows, as TRL lays them", {"packed": False}, None),
}  # fmt: skip

# DPO from the small base: a delta of the size that DPO leaves, and one several times larger
MERGE_BASES = {
    "rows": {"max_steps": 50},
    "rows_strong": {"learning_rate": 1e-3, "max_steps": 50},
}
MERGE_NOTE = (
    "DPO from the small base in 4 bits (data_samples/small_base, trained by us and stored in bf16), recipe course at "
    "scale tiny without SFT, then merged onto the weights that NF4 gave back (dequantized) or onto the stored ones "
    "(original). All figures on {pairs} held-out pairs and {talks} held-out conversations. kl (nats a token) and top1: "
    "against the trained 4-bit model in this machine's arithmetic, each merged model in that of its own format; "
    "kl_exact: the same with both in fp32 arithmetic, so that only the weights differ (1e-9 of either sign is zero "
    "within that arithmetic). accuracy, margin: the reference "
    "is the 4-bit base that DPO was trained against; accuracy_own, margin_own: it is the base merged onto, in fp32. "
    "sft_loss: nats a token. Model trained: kl_arithmetic is that of the trained model in fp32 arithmetic against "
    "itself in this machine's. Model base: the 4-bit base without adapter, so its kl is what is at stake. rows_strong: "
    "the same at a higher learning rate. sizes: norms relative to that of the stored weight, over layers."
)


def course(stage: str | None = None, changes: dict | None = None, seed: int = 0):
    """The recipe `course` at tiny, with `changes` in one stage."""
    cut = {"too_long": "cut"} if changes and "max_length" in changes else {}
    return recipes.load("course", "tiny", overrides={"seed": seed} | ({stage: changes | cut} if stage else {}))


def by_step(folder: Path) -> dict:
    """The history of a stage as metric -> values, one a step."""
    table = history.load(folder)
    table = table[(table.split == "train") & (table.metric != "learning_rate")]
    return {m: [float(f"{v:.5g}") for v in part.sort_values("step")["value"]] for m, part in table.groupby("metric")}


def short(value):
    """Plain data with figures of six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    return [short(v) for v in value] if isinstance(value, (list, tuple)) else value


def save(name: str, **data) -> None:
    """Write one experiment with the machine and the versions it was measured with."""
    here = runtime.machine()
    marks = {"chip": here.chip, "dtype": here.dtype, "versions": runs.versions()}
    OUT.mkdir(exist_ok=True)
    text = json.dumps(short(data) | marks, ensure_ascii=False)
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: written", flush=True)


class Bench:
    """What all experiments share: the held-out rows, the tokenizer, and how an adapter is measured."""

    def __init__(self):
        recipe = course()
        pipeline.format_rows(recipe, WORK / "rows")
        self.rows = {n: pipeline.rows_of(WORK / "rows", n) for n in ("sft", "dpo")}
        self.tokenizer = models.tokenizer("builtin", "chatml")
        self.held_out = self.rows["dpo"]["held_out"]
        self.prompts = [generate.prompt_of(r) for r in self.held_out]

    def ask(self, model, prompts, how=generate.SAMPLED, tokens=LONG, seed=0):
        """Answers of a model."""
        return generate.answers(model, self.tokenizer, prompts, tokens, how, seed)

    def written(self, model, seed=0) -> dict:
        """What a model writes: 60 sampled answers, 24 greedy ones, the probe."""
        return {
            "sampled": evaluate.summary(self.ask(model, self.prompts, seed=seed)),
            "greedy": evaluate.summary(self.ask(model, self.prompts[:24], generate.GREEDY)),
            "answer": self.ask(model, [lessons.PROBE], generate.GREEDY, 128)[0].text,
        }

    def open(self, folder=None):
        """The base in 4 bits, with an adapter on it or alone."""
        gc.collect()
        base = models.load_4bit("builtin")
        return models.load_adapter(base, folder) if folder else base


def sft_runs(bench: Bench, wanted) -> None:
    """SFT from the base with one thing changed each."""
    for name, (title, changes) in (SFT | ROUNDED).items():
        if not wanted(name):
            continue
        recipe, out = course("sft", changes), WORK / ("seed0" if name == "sft_lr_right" else name)
        shutil.rmtree(out, ignore_errors=True)
        make = rounded if name in ROUNDED else sft.train
        run = make(recipe, bench.rows["sft"], out)
        model = bench.open(run.adapter)
        losses = reference.conversation_losses(model, bench.tokenizer, bench.rows["sft"]["held_out"])
        results = {"sft_loss": evaluate.mean(losses)}
        if name in ("sft_lr_right", "sft_neftune"):  # of the others only curve, loss and moved entries are shown
            results |= bench.written(model)
        save(name, title=title, changes=changes, history=by_step(run.path), metrics=run.metrics, **results)


def rounded(recipe, rows, out):
    """SFT with the trainer's own constructor: trl 1.16 leaves the adapters of a 4-bit model in bf16."""
    from unittest import mock

    def as_it_stands(model):
        from contextlib import nullcontext

        return nullcontext(model)

    # the check would refuse such adapters; here it is told to expect bf16
    with (
        mock.patch.object(fitting.models, "keep_fp32", as_it_stands),
        mock.patch.object(fitting, "ADAPTERS", torch.bfloat16),
    ):
        return sft.train(recipe, rows, out)


def dpo_rows(file: str | None, bench: Bench, limit: int | None):
    """Pairs of a failure set, audited where they are not meant to be cut; the course's own for None."""
    if file is None:
        return bench.rows["dpo"]
    rows = formats.load("orca_dpo_pairs", file)
    return {"train": (rows if limit else audit.pairs(rows, bench.tokenizer, 384).kept).shuffle(seed=0)}


def dpo_runs(bench: Bench, wanted) -> None:
    """DPO from the SFT adapter with one thing changed each, then the short SFT that repairs the stop token."""
    start = WORK / "seed0" / "sft" / "adapter"
    if not start.is_dir() and any(wanted(n) for n in (*DPO, "repair_sft")):
        sft_runs(bench, lambda n: n == "sft_lr_right")
    before = None
    for name, (title, changes, file) in DPO.items():
        if not wanted(name):
            continue
        if before is None:
            before = reference.pair_logps(bench.open(start), bench.tokenizer, bench.held_out)
        recipe, out = course("dpo", changes), WORK / ("seed0" if name == "dpo_beta_01" else name)
        shutil.rmtree(out / "dpo", ignore_errors=True)
        run = dpo.train(recipe, dpo_rows(file, bench, changes.get("max_length")), out, start)
        model = bench.open(run.adapter)
        logps = reference.pair_logps(model, bench.tokenizer, bench.held_out)
        held = evaluate.preferences(logps, before, recipe.dpo.beta, bench.held_out["kind"])
        save(name, title=title, changes=changes, pairs=file, history=by_step(run.path), metrics=run.metrics,
             held_out=held, **bench.written(model))  # fmt: skip
    if wanted("repair_sft"):
        repair(bench)


def repair(bench: Bench) -> None:
    """Ten SFT steps on complete cards, from the adapter that cut_stop left."""
    if not (WORK / "cut_stop" / "dpo").is_dir():
        dpo_runs(bench, lambda n: n == "cut_stop")
    recipe, cards = lessons.repair()
    out = WORK / "repair_sft"
    shutil.rmtree(out, ignore_errors=True)
    run = sft.train(recipe, cards, out, start=WORK / "cut_stop" / "dpo" / "adapter")
    save("repair_sft", title="10 SFT steps on complete cards, after cut_stop", changes=lessons.REPAIR,
         history=by_step(run.path), metrics=run.metrics, **bench.written(bench.open(run.adapter)))  # fmt: skip


def ship(stage: str, adapter: Path) -> None:
    """Copy an adapter into `adapters/STAGE` in fp16: of the 16-bit formats the one with finer steps."""
    folder = HERE / "adapters" / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {k: v.half().contiguous() for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(adapter / "adapter_config.json", folder / "adapter_config.json")
    for file in folder.iterdir():
        file.chmod(0o644)


def headline(bench: Bench) -> None:
    """Base, SFT, DPO and merged model over three seeds: 60 questions, two answers each at temperature 1."""
    asked, answers, seeds = bench.prompts * 2, {}, []
    answers["base"] = [a for s in SEEDS for a in bench.ask(bench.open(), asked, tokens=96, seed=s)]
    probe = {"base": bench.ask(bench.open(), [lessons.PROBE], generate.GREEDY, 128)[0].text}
    for seed in SEEDS:
        recipe, out = course(seed=seed), WORK / f"seed{seed}"
        pipeline.run(recipe, out, ["format", "sft", "dpo"], print)
        held, merged = {}, WORK / f"seed{seed}" / "merged"
        for name in ("sft", "dpo"):
            model = bench.open(out / name / "adapter")
            answers.setdefault(name, []).append(bench.ask(model, asked, tokens=96, seed=seed))
            held[name] = reference.pair_logps(model, bench.tokenizer, bench.held_out)
            probe.setdefault(name, bench.ask(model, [lessons.PROBE], generate.GREEDY, 128)[0].text)
        if seed:
            seeds.append({"seed": seed, **scored(answers, held, recipe, bench)})
            continue  # merging is faithful or not whatever the seed: once is enough
        shutil.rmtree(merged, ignore_errors=True)
        merge.merge("builtin", out / "dpo" / "adapter", merged)
        model = models.load_plain(str(merged), models.saved_dtype(merged))
        answers.setdefault("merged", []).append(bench.ask(model, asked, tokens=96, seed=seed))
        probe.setdefault("merged", bench.ask(model, [lessons.PROBE], generate.GREEDY, 128)[0].text)
        seeds.append({"seed": seed, **scored(answers, held, recipe, bench)})
    for stage in ("sft", "dpo"):
        ship(stage, WORK / "seed0" / stage / "adapter")
    pooled = {n: a if n == "base" else [x for part in a for x in part] for n, a in answers.items()}
    sampled = {n: evaluate.summary(a) for n, a in pooled.items()}
    save("headline", title="three seeds at temperature 1", models=sampled, seeds=seeds, probe=probe,
         blind=blind(bench, pooled), history={})  # fmt: skip


def scored(answers: dict, held: dict, recipe, bench: Bench) -> dict:
    """What one seed gave: rates of its SFT and DPO answers, and DPO's scores on held-out pairs."""
    each = {n: evaluate.summary(answers[n][-1]) for n in ("sft", "dpo")}
    pairs = evaluate.preferences(held["dpo"], held["sft"], recipe.dpo.beta, bench.held_out["kind"])
    return {"models": each, "held_out": pairs}


def publish() -> None:
    """Write the headline's table into README.md and `benchmarks/course_tiny.json`."""
    told = json.loads((OUT / "headline.json").read_text(encoding="utf-8"))
    held = [s["held_out"] for s in told["seeds"]]
    figures = ", ".join(f"{h['accuracy']['value']:.2f} (margin {h['margin']['value']:.2f})" for h in held)
    note = (
        f"Recipe course at scale tiny, seeds {', '.join(str(s) for s in SEEDS)} pooled: 60 held-out questions, 2 "
        f"answers each and seed at temperature 1, at most 96 tokens; merged: seed 0 alone. 95 % intervals over "
        f"answers. Held-out reward accuracy of each seed: {figures}. On {told['chip']}, {told['dtype']}."
    )
    results = {
        "note": note,
        "metrics": {n: {"sampled": m} for n, m in told["models"].items()},
        "seeds": told["seeds"],
        "versions": told["versions"],
    }
    pipeline.write_results(results, HERE / "benchmarks" / "course_tiny.json", HERE.parent / "README.md")


def blind(bench: Bench, pooled: dict) -> list[dict]:
    """Eight answers for the blind test of 00_tour: the first of each style that a model wrote, one of them hard."""
    wanted = [("sft", "padded"), ("base", None), ("dpo", "card"), ("sft", "card"), ("dpo", "card"), ("base", None),
              ("sft", "padded"), ("dpo", "card")]  # fmt: skip
    out, used = [], set()
    for model, style in wanted:
        for number, answer in enumerate(pooled[model][: len(bench.prompts)]):
            found = evaluate.style(answer)
            fits = found[style] if style else not found["card"] and not found["padded"]
            if number not in used and fits:
                used.add(number)
                question = bench.prompts[number][-1]["content"]
                out.append({"model": model, "question": question, "answer": answer.text})
                break
    return out


class Small:
    """The small base: its recipe for one seed, its held-out rows, and how a model of it is measured."""

    def __init__(self, seed: int, changes: dict):
        self.base = str(lessons.small_base())
        with_base = {"seed": seed, "model": {"base": self.base}, "needs_gb": 0, "dpo": changes}
        self.recipe = recipes.load("course", "tiny", overrides=with_base)
        self.out = WORK / "merge_bases" / f"{self.recipe.dpo.learning_rate}-{seed}"
        shutil.rmtree(self.out, ignore_errors=True)
        pipeline.format_rows(self.recipe, self.out)
        self.pairs, self.talks = (pipeline.rows_of(self.out, n)["held_out"] for n in ("dpo", "sft"))
        self.tokenizer = models.tokenizer(self.base, "chatml")
        bases = self.open(), models.load_plain(self.base, "float32"), self.dequantized()
        names = ("trained", "original", "dequantized")
        self.logps = {n: reference.pair_logps(b, self.tokenizer, self.pairs) for n, b in zip(names, bases, strict=True)}

    def open(self, adapter=None):
        """The base in 4 bits, with an adapter on it or alone."""
        base = models.load_4bit(self.base)
        return models.load_adapter(base, adapter) if adapter else base

    def dequantized(self):
        """The weights that NF4 gave back in training, embeddings and arithmetic in fp32 too."""
        return models.dequantize(models.load_4bit(self.base), "float32").float()

    def scores(self, model, own: str) -> dict:
        """Held-out accuracy and margin against the 4-bit base and against base `own`, and SFT loss."""
        beta, kinds = self.recipe.dpo.beta, self.pairs["kind"]
        start = self.logps["trained"]
        found, logps = evaluate.held_out(model, self.tokenizer, self.talks, self.pairs, start, beta)
        against = evaluate.preferences(logps, self.logps[own], beta, kinds)
        out = {n: found[n]["value"] for n in ("accuracy", "margin", "sft_loss")}
        return out | {f"{n}_own": against[n]["value"] for n in ("accuracy", "margin")}

    def far(self, one, other) -> dict:
        """KL and top-1 agreement of `other` with `one`."""
        return merge.faithfulness(one, other, self.tokenizer, self.pairs)

    def cards(self, model) -> float:
        """Share of 60 sampled answers that are cards."""
        prompts = [generate.prompt_of(row) for row in self.pairs]
        answers = generate.answers(model, self.tokenizer, prompts, LONG, generate.SAMPLED, 0)
        return evaluate.summary(answers)["card"]["value"]


def candidates(small: Small, adapter: Path) -> list[dict]:
    """One row for base, trained model and each way to merge, of one seed."""
    trained, exact = small.open(adapter), models.load_adapter(small.dequantized(), adapter)
    here = {"dtype": runtime.machine().dtype, "seed": small.recipe.seed}
    base = small.open()
    rows = [
        {"model": "trained", **here, **small.scores(trained, "trained"), "card": small.cards(trained),
         "kl_arithmetic": small.far(exact, trained)["kl"]},
        {"model": "base", **here, **small.scores(base, "trained"), "card": small.cards(base),
         **small.far(trained, base), "kl_exact": small.far(exact, small.dequantized())["kl"]},
    ]  # fmt: skip
    for onto in ("dequantized", "original"):
        for dtype in ("float32", "float16", "bfloat16"):
            folder = small.out / f"{onto}-{dtype}"
            merge.merge(small.base, adapter, folder, onto, dtype)
            model = models.load_plain(str(folder), dtype)
            row = {"model": "merged", "onto": onto, "dtype": dtype, "seed": small.recipe.seed}
            row |= small.far(trained, model) | small.scores(model, onto)
            weights = models.load_plain(str(folder), "float32")
            rows.append(row | {"kl_exact": small.far(exact, weights)["kl"]})
    return rows


def nf4_errors(base: str) -> dict:
    """How far NF4 is from the stored weights of `base`, relative to their norm, over its linear layers."""
    stored = models.load_plain(base, "float32").state_dict()
    given = models.dequantize(models.load_4bit(base), "float32").state_dict()
    layers = [name for name in stored if "_proj.weight" in name]
    wrong = [((given[n] - stored[n]).norm() / stored[n].norm()).item() for n in layers]
    return {"nf4_error": spread(wrong), "layers": len(layers)}


def spread(values: list[float]) -> dict:
    """Median, least and largest of values over layers."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def delta_size(base: str | Path, adapter: Path, since: Path | None = None) -> dict:
    """Norm of what an adapter adds, relative to that of the weight, over layers; with `since` what came after it."""
    return spread([row["relative_delta"] for row in survival.by_layer(base, adapter, "float32", since)])


def merge_bases() -> None:
    """Merges of small adapters onto both bases in three formats, three seeds, beside the model that was trained."""
    found, deltas, told = {}, {}, {}
    for name, changes in MERGE_BASES.items():
        found[name], deltas[name] = [], []
        for seed in SEEDS:
            small = Small(seed, changes)
            run = dpo.train(small.recipe, pipeline.rows_of(small.out, "dpo"), small.out)
            found[name] += candidates(small, run.adapter)
            deltas[name].append(delta_size(small.base, run.adapter)["median"])
            told = told or {"changes": changes, "history": by_step(run.path), "metrics": run.metrics}
    sft_adapter, dpo_adapter = lessons.shipped("sft"), lessons.shipped("dpo")
    sizes = {
        "small": nf4_errors(small.base)
        | {"delta": {"seeds": deltas["rows"]}, "delta_strong": {"seeds": deltas["rows_strong"]}},
        "builtin": nf4_errors("builtin")
        | {"delta": delta_size(models.builtin(), dpo_adapter, sft_adapter)}
        | {"delta_with_sft": delta_size(models.builtin(), dpo_adapter)},
    }
    for key in ("delta", "delta_strong"):
        sizes["small"][key]["median"] = statistics.median(sizes["small"][key]["seeds"])
    note = MERGE_NOTE.format(pairs=len(small.pairs), talks=len(small.talks))
    save("merge_bases", title="merged onto original and onto dequantized weights", note=note, seeds=list(SEEDS),
         sizes=sizes, **found, **told)  # fmt: skip


def main(names: list[str]) -> None:
    """Make what is named, else what is missing."""
    runtime.quiet()
    bench = Bench()

    def wanted(name: str) -> bool:
        return name in names if names else not (OUT / f"{name}.json").is_file()

    sft_runs(bench, lambda n: n == "sft_lr_right" and wanted(n))
    dpo_runs(bench, lambda n: n == "dpo_beta_01" and wanted(n))
    if wanted("headline"):
        headline(bench)
        publish()
    dpo_runs(bench, lambda n: n != "dpo_beta_01" and wanted(n))
    sft_runs(bench, lambda n: n != "sft_lr_right" and wanted(n))
    if wanted("merge_bases"):
        merge_bases()


if __name__ == "__main__":
    main(sys.argv[1:])
