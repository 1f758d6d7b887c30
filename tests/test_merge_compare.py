"""Candidates measured against the trained model, and the choice.

Run alone: python -m pytest tests/test_merge_compare.py
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from hermes_nb import formatting, merge, models, pipeline, runs
from hermes_nb.errors import FileProblem
from hermes_nb.merge import candidates as comparing
from hermes_nb.merge import choice, faithful

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


def test_auto_takes_what_was_measured_for_this_adapter(quick, found, tmp_path):
    """The measurement of another adapter says nothing about this one."""
    _, out = quick
    adapter = out / "dpo" / "adapter"
    (out / "reports").mkdir(exist_ok=True)
    told = found | {"candidates": {"x": one("original", "bfloat16", 1e-9)} | found["candidates"]}
    runs.write_json(out / "reports" / "merge.json", {"metrics": told})
    assert (merge.choose(adapter).onto, merge.choose(adapter).dtype) == ("original", "bfloat16")
    assert "KL 1.0e-09" in merge.choose(adapter).reason
    assert merge.choose(adapter, dtype="float32").onto == "dequantized"
    assert merge.choose(adapter, "original", "float32").reason == "as asked for"
    runs.write_json(out / "reports" / "merge.json", {"metrics": told | {"adapter": "another"}})
    assert "not measured for this adapter" in merge.choose(adapter).reason
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
                recipe.merge.max_shard_size)  # fmt: skip
    assert (out / "merged" / "merge.json").stat().st_mtime_ns == stamp, "it is the merge that `merge` would make"


def test_without_an_adapter_there_is_nothing_to_compare(quick, tmp_path):
    """The first error should be ours."""
    (tmp_path / "recipe.yaml").write_text((quick[1] / "recipe.yaml").read_text())
    with pytest.raises(FileProblem, match="no adapter here yet"):
        merge.compare(tmp_path)


def test_rewards_are_measured_from_where_dpo_began(quick, tmp_path):
    """Against the base, SFT's own gain would count as a preference."""
    _, out = quick
    assert comparing._started(out, out / "dpo" / "adapter", None) == out / "sft" / "adapter"
    assert comparing._started(out, out / "sft" / "adapter", None) is None
    assert comparing._started(out, out / "dpo" / "adapter", tmp_path) == tmp_path
