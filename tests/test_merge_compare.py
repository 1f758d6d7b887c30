"""Candidates measured against the trained model, and the choice.

Run alone: python -m pytest tests/test_merge_compare.py
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from hermes_nb import formatting, merge, models, pipeline, runs
from hermes_nb.errors import DataProblem, FileProblem, RecipeProblem, ResourceProblem
from hermes_nb.merge import asking, choice, faithful, keeping
from hermes_nb.merge import candidates as comparing

HOT = {"learning_rate": 0.01}


@pytest.fixture(scope="module")
def quick(tiny_base, tmp_path_factory, cache):
    """A run directory of the tiny model with rows, SFT and DPO; and its recipe."""
    from hermes_nb import recipes

    few = {"rows_per_step": 4, "rows_per_device": 2, "max_steps": 3, "max_length": 1024, **HOT}
    base = recipes.load("course", "tiny", overrides={"sft": few, "dpo": few | {"looks": 0}, "needs_gb": 0})
    asking = replace(base.evaluate, questions=4, samples=1, greedy_questions=2, max_new_tokens=8)
    recipe = replace(base, model=replace(base.model, base=tiny_base), evaluate=asking)
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMES_CACHE", str(cache))
        pipeline.run(recipe, out, ["format", "sft", "dpo"])
    return recipe, out


@pytest.fixture(scope="module")
def found(quick, cache):
    few = {"pairs": 6, "questions": 3, "max_new_tokens": 6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMES_CACHE", str(cache))
        return merge.compare(quick[1], ("original", "dequantized"), ("bfloat16", "float32"), **few)


def test_every_candidate_is_measured_and_the_nearest_is_chosen(quick, found):
    """A choice among candidates that nobody measured is a habit."""
    assert set(found["candidates"]) == {
        f"{o}, {d}" for o in ("original", "dequantized") for d in ("bfloat16", "float32")
    }
    kl = {name: c["kl"] for name, c in found["candidates"].items()}
    assert min(kl, key=kl.get).startswith("dequantized")
    assert kl["dequantized, float32"] < 0.2 * kl["original, float32"]
    assert found["kl"] == kl[f"{found['onto']}, {found['dtype']}"]
    assert found["kl_without_adapter"] > found["kl"]
    assert found["tokens"] <= asking.TOKENS
    for one in (*found["candidates"].values(), found["trained"]):
        assert one["accuracy"]["n"] == 6
        assert one["stops"]["n"] == 3
    assert json.loads(json.dumps(found)) == found
    assert not (quick[1] / ".candidates").exists()


def test_the_survival_of_each_layer_is_in_the_report(found):
    """fp32 keeps what bf16 rounds away, layer by layer."""
    assert set(found["layers"]) == {"bfloat16", "float32"}
    assert len(found["layers"]["bfloat16"]) == 14
    assert found["survival"]["bfloat16"]["low"] <= found["survival"]["bfloat16"]["median"] < 1
    assert found["survival"]["float32"]["low"] > 0.999


def test_the_figures_are_those_of_faithfulness(quick, found, tiny_cache):
    """The readings of the trained model are kept and used again: they must be its own."""
    recipe, out = quick
    adapter, tokenizer = out / "dpo" / "adapter", models.tokenizer(recipe.model.base, "chatml")
    folder = merge.merge(recipe.model.base, adapter, out / "m", "dequantized", "bfloat16")
    trained = models.load_adapter(models.load_4bit(recipe.model.base), adapter)
    rows = formatting.rows_of(out, "dpo")["held_out"].select(range(6))
    plain = models.load_plain(str(folder), "bfloat16")
    alone = merge.faithfulness(trained, plain, tokenizer, rows)
    shutil.rmtree(out / "m")
    mine = found["candidates"]["dequantized, bfloat16"]
    assert {key: mine[key] for key in alone} == pytest.approx(alone, rel=1e-4)


def test_changes_are_those_to_the_trained_model(quick, found):
    """A change without its sign or its origin is no change."""
    for one in found["candidates"].values():
        for key in ("accuracy", "stops"):
            assert one[f"{key}_change"] == pytest.approx(one[key]["value"] - found["trained"][key]["value"])


def test_divergence_by_hand():
    """p = (0.5, 0.5), q = (0.75, 0.25): KL = 0.5 ln(0.5/0.75) + 0.5 ln(0.5/0.25) = 0.14384; a second token equal: half.

    The likeliest token of p is the first by order; q's too, so top-1 is 1.
    """
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.75, 0.25], [0.9, 0.1]]).log()
    told = faithful.divergence([p], [q])
    assert told["kl"] == pytest.approx(0.14384 / 2, abs=1e-5)
    assert (told["top1"], told["tokens"]) == (1.0, 2)
    assert faithful.divergence([p], [p.flip(1)])["top1"] == 0.5, "of two equal ones the first counts"


def test_what_the_trained_model_rules_out_adds_nothing():
    """0 log 0 is 0: as a number it is NaN, and one such token would hide all others."""
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    q = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    assert faithful.divergence([p], [q])["kl"] == pytest.approx(0.6931 / 2, abs=1e-4)
    assert faithful.divergence([p], [p])["kl"] == 0.0
    with pytest.raises(DataProblem, match="no token"):
        faithful.divergence([], [])


def test_small_differences_are_not_lost_in_a_long_sum():
    """In fp32 a vocabulary of 128,000 rounds a KL of 5e-9 away, or below 0."""
    torch.manual_seed(0)
    p = torch.randn(3, 128_000, dtype=torch.float64).log_softmax(-1)
    q = (p + 1e-4 * torch.randn(3, 128_000, dtype=torch.float64)).log_softmax(-1)
    assert faithful.divergence([p], [q])["kl"] == pytest.approx((p.exp() * (p - q)).sum().item() / 3, rel=1e-6)
    assert faithful.divergence([p.repeat(50, 1)], [q.repeat(50, 1)])["tokens"] == 150


def test_expectations_end_at_the_number_of_tokens(tiny_base, plain_tokenizer, rows, tiny_cache):
    """Expectations of a 128k vocabulary take half a megabyte a token: one long answer must not double them."""
    model, tokenizer = models.load_plain(tiny_base, "float32"), models.tokenizer(tiny_base, "chatml")
    whole = list(faithful.expected(model, tokenizer, rows["dpo"]))
    most = len(whole[0]) + 2
    cut = list(faithful.expected(model, tokenizer, rows["dpo"], most))
    assert [len(part) for part in cut] == [len(whole[0]), 2]
    assert torch.equal(cut[1], whole[1][:2])
    assert [len(part) for part in faithful.expected(model, tokenizer, rows["dpo"], len(whole[0]))] == [len(whole[0])]


def one(onto, dtype, kl):
    return {"onto": onto, "dtype": dtype, "kl": kl}


def test_the_nearest_is_taken_unless_half_the_size_is_as_near():
    """fp32 for a hundredth of a KL doubles the download."""
    fp32, fp16 = one("dequantized", "float32", 1.0e-4), one("dequantized", "float16", 1.2e-4)
    far = one("original", "float16", 9e-4)
    chosen = choice.best({"a": fp32, "b": fp16, "c": far}, bare=0.1)
    assert (chosen.onto, chosen.dtype) == ("dequantized", "float16")
    assert "as near as a (1.0e-04) in half the size" in chosen.reason
    assert "c is 7.5 times as far" in chosen.reason
    chosen = choice.best({"a": fp32, "b": fp16 | {"kl": 1.3e-4}, "c": far}, bare=0.1)
    assert chosen.dtype == "float32"
    assert "b is 1.3 times as far; without the adapter 1.0e-01" in chosen.reason
    same_bits = {"a": one("original", "bfloat16", 1.1e-4), "b": one("dequantized", "float16", 1e-4)}
    assert choice.best(same_bits, bare=0.1).dtype == "float16"


@pytest.mark.parametrize("lowest", [0.0, -3e-9])
def test_below_the_noise_of_rounding_the_smaller_file_is_taken(lowest):
    """A perfect merge has a KL of 0 or a little less; nothing is 1.25 times as far as that."""
    told = {"a": one("dequantized", "float32", lowest), "b": one("dequantized", "float16", 1e-12)}
    chosen = choice.best(told | {"c": one("original", "float16", 9e-4)}, bare=0.1)
    assert chosen.dtype == "float16"
    assert "b: KL below 1e-07 nats a token" in chosen.reason
    assert "c is 9000.0 times as far" in chosen.reason
    assert "times as far" not in choice.best(told, bare=0.1).reason


def test_a_candidate_that_computes_no_numbers_is_named():
    """fp16 overflows in some models; NaN sorts anywhere, even first."""
    told = {"a": one("original", "bfloat16", 1e-4), "b": one("original", "float16", float("nan"))}
    for order in (told, dict(reversed(told.items()))):
        with pytest.raises(RecipeProblem, match=r"^b: its KL is nan.* float16; leave this candidate out"):
            choice.best(order, bare=0.1)


def test_auto_takes_what_was_measured_for_this_adapter(quick, found, tmp_path):
    """The measurement of another adapter says nothing about this one."""
    _, out = quick
    adapter = out / "dpo" / "adapter"
    (out / "reports").mkdir(exist_ok=True)
    told = found | {"candidates": {"x": one("original", "bfloat16", 2e-9)} | found["candidates"]}
    runs.write_json(out / "reports" / "merge.json", {"metrics": told})
    assert (merge.choose(adapter).onto, merge.choose(adapter).dtype) == ("original", "bfloat16")
    assert "KL below 1e-07" in merge.choose(adapter).reason
    assert merge.choose(adapter, dtype="float32").onto == "dequantized"
    assert merge.choose(adapter, "original", "float32").reason == "as asked for"
    runs.write_json(out / "reports" / "merge.json", {"metrics": told | {"adapter": "another"}})
    assert "not measured for this adapter" in merge.choose(adapter).reason
    only = merge.choose(adapter, dtype="bfloat16")
    assert (only.onto, only.dtype) == ("dequantized", "bfloat16")
    assert "saved as" not in only.reason, "nobody chose the format"
    (out / "reports" / "merge.json").unlink()
    assert merge.choose(adapter).onto == "dequantized"


def test_the_chosen_candidate_is_kept_and_the_disk_holds_two_at_most(quick, tiny_cache, monkeypatch):
    """Four candidates of a 7B model are 58 GB."""
    recipe, out = quick
    most, real = [], comparing._better

    def better(left, folder, chosen):
        most.append(len(list((out / ".candidates").iterdir())))
        return real(left, folder, chosen)

    monkeypatch.setattr(comparing, "_better", better)
    told = merge.compare(
        out, dtype=("float32", "bfloat16"), pairs=2, questions=1, max_new_tokens=2, keep=out / "merged"
    )
    assert max(most) == 2
    made = runs.read_json(out / "merged" / "merge.json")
    assert (made["onto"], made["dtype"]) == (told["onto"], told["dtype"])
    stamp = (out / "merged" / "merge.json").stat().st_mtime_ns
    merge.merge(recipe.model.base, out / "dpo" / "adapter", out / "merged", told["onto"], told["dtype"],
                recipe.merge.max_shard_size, recipe.model.revision, recipe.model.template)  # fmt: skip
    assert (out / "merged" / "merge.json").stat().st_mtime_ns == stamp, "it is the merge that `merge` would make"


def test_without_an_adapter_there_is_nothing_to_compare(quick, tmp_path):
    """The first error should be ours."""
    (tmp_path / "recipe.yaml").write_text((quick[1] / "recipe.yaml").read_text())
    with pytest.raises(FileProblem, match="no adapter here yet"):
        merge.compare(tmp_path)


def test_rewards_are_measured_from_where_dpo_began(quick, tmp_path):
    """Against the base, SFT's own gain would count as a preference; against another adapter it is no reward at all."""
    _, out = quick
    sft, dpo = out / "sft" / "adapter", out / "dpo" / "adapter"
    assert comparing._started(out, dpo, None) == sft
    assert comparing._started(out, sft, None) is None
    assert comparing._started(out, dpo, dpo) == sft, "the record tells, not the caller"
    moved = shutil.copytree(sft, tmp_path / "elsewhere")
    assert comparing._started(out, dpo, moved) == moved
    own = tmp_path / "dpo" / "adapter"
    shutil.copytree(dpo, own)
    assert comparing._started(tmp_path, own, moved) == moved, "an adapter from elsewhere brings no record"
    assert comparing._started(tmp_path, own, None) is None
    shutil.copyfile(out / "dpo" / "run.json", own.parent / "run.json")
    assert comparing._started(tmp_path, own, moved) == moved
    with pytest.raises(FileProblem, match=r"trained from another one .* which is not .*sft/adapter; name the folder"):
        comparing._started(tmp_path, own, None)


FEW = {"onto": ("original",), "dtype": ("float32",), "pairs": 1, "questions": 1, "max_new_tokens": 1}


def test_what_must_not_be_replaced_is_refused_before_anything_is_measured(quick, tmp_path, monkeypatch):
    """After twenty minutes of measuring, a raw OSError; or somebody's folder is gone."""
    recipe, out = quick
    monkeypatch.setattr(asking, "asked", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(FileProblem, match="exists already and is no merged model"):
            merge.compare(out, keep=taken, **FEW)
    with pytest.raises(FileProblem, match="no folder can be made there"):
        merge.compare(out, keep=tmp_path / "mine" / "thesis.txt" / "merged", **FEW)
    base = shutil.copytree(recipe.model.base, tmp_path / "base")
    (base / "merge.json").write_text("{}")
    with pytest.raises(FileProblem, match="is the base of this merge"):
        keeping.check(base, out, str(base))
    keeping.check(tmp_path / "new" / "deep", out, "builtin")
    monkeypatch.setattr(keeping, "_disk", lambda folder: str(folder))
    with pytest.raises(FileProblem, match=r"on another disk than .*; keep it as .*far, and move it"):
        keeping.check(tmp_path / "far", out, "builtin")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_the_place_is_taken_whole_or_not_at_all(tmp_path, monkeypatch):
    """A kill while the old model is deleted would leave half of it under the final name."""
    keep, new = tmp_path / "merged", tmp_path / "new"
    for folder in (keep, new):
        folder.mkdir()
        (folder / "merge.json").write_text(json.dumps(folder.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            keeping.take(new, keep)
    assert json.loads((keep / "merge.json").read_text()) == "new"
    keeping.check(keep, tmp_path, "builtin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged"], "what the kill left is deleted"
    keep.rename(tmp_path / ".merged.old")  # a kill between the two renames
    keeping.check(keep, tmp_path, "builtin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged"], "and nothing is lost"


def killed(*args, **more):
    raise KeyboardInterrupt


def test_the_report_stands_before_the_place_is_taken(quick, tiny_cache, tmp_path, monkeypatch):
    """A new model under the report of the old one would be counted as that one."""
    _, out = quick
    (out / "reports" / "merge.json").unlink(missing_ok=True)
    monkeypatch.setattr(keeping, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        merge.compare(out, keep=tmp_path / "kept", **FEW)
    assert runs.read_json(out / "reports" / "merge.json")["metrics"]["dtype"] == "float32"
    assert (out / ".candidates" / "original-float32" / "merge.json").is_file(), "the next call goes on from here"
    monkeypatch.undo()


def test_candidates_of_another_call_are_made_anew_and_those_of_a_kill_are_used(quick, tiny_cache, monkeypatch):
    """A stale candidate blocked the stage for good; one of a 7B model takes minutes to make again."""
    _, out = quick
    stale, other = out / ".candidates" / "original-float32", out / ".candidates" / "dequantized-float16"
    shutil.rmtree(out / ".candidates", ignore_errors=True)
    for folder in (stale, other):
        folder.mkdir(parents=True)
        (folder / "merge.json").write_text("{}")
    seen = []

    def load(folder, dtype):
        seen.append(
            (sorted(p.name for p in (out / ".candidates").iterdir()), (stale / "merge.json").stat().st_mtime_ns)
        )
        raise KeyboardInterrupt if len(seen) < 3 else ZeroDivisionError

    monkeypatch.setenv("HERMES_CACHE", str(tiny_cache))
    monkeypatch.setattr(models, "load_plain", load)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            merge.compare(out, **FEW)
    assert seen[0][0] == ["original-float32"]
    assert seen[0] == seen[1], "what a kill leaves is used"
    with pytest.raises(ZeroDivisionError):
        merge.compare(out, **FEW)
    assert not (out / ".candidates").exists(), "what an error leaves is not"


def test_too_little_memory_is_said_before_a_candidate_is_written(quick, monkeypatch):
    """14 GB were written first, and then stayed there."""
    _, out = quick
    needed = []

    def need_memory(gigabytes, what):
        needed.append(gigabytes)
        raise ResourceProblem(what)

    monkeypatch.setattr(comparing, "need_memory", need_memory)
    monkeypatch.setattr(comparing, "merge", None)
    monkeypatch.setattr(asking, "trained", None)
    with pytest.raises(ResourceProblem, match="unquantized"):
        merge.compare(out, **FEW | {"dtype": ("bfloat16", "float32")})
    parameters = models.load_plain(quick[0].model.base, "float32").num_parameters()
    assert needed == [pytest.approx(4 * parameters / 1e9)]
    assert not (out / ".candidates").exists()


def test_the_survival_is_found_out_before_anything_is_measured(quick, monkeypatch):
    """At the end its failure would lose every measurement."""
    monkeypatch.setattr(asking, "trained", None)
    monkeypatch.setattr(comparing.survival, "by_layer", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge.compare(quick[1], **FEW)


def test_training_rows_are_not_called_held_out(quick, monkeypatch):
    """On rows that the adapter was trained on every figure flatters."""
    rows = formatting.rows_of(quick[1], "dpo")
    for held_out in ({}, {"held_out": rows["held_out"].select([])}):
        monkeypatch.setattr(asking, "rows_of", lambda *a, more=held_out: {"train": rows["train"]} | more)
        with pytest.raises(FileProblem, match="no held-out pairs"):
            merge.compare(quick[1], **FEW)
    for none in ("pairs", "questions"):
        with pytest.raises(RecipeProblem, match="at least one of each"):
            merge.compare(quick[1], **FEW | {none: 0})


def test_unknown_words_are_said_at_the_start(quick):
    """`auto` is what the comparison is there to decide; a generator is empty the second time."""
    for wrong in ({"onto": ("auto",)}, {"dtype": ("nf4",)}, {"dtype": ()}, {"onto": "base"}):
        with pytest.raises(RecipeProblem, match=f"merge: {next(iter(wrong))} .*; give "):
            merge.compare(quick[1], **FEW | wrong)
    assert comparing._words("dtype", iter(("float16", "bfloat16", "float16")), merge.DTYPES) == ["float16", "bfloat16"]
    assert comparing._words("onto", "original", merge.ONTO) == ["original"]
