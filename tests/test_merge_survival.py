"""Run alone: python -m pytest tests/test_merge_survival.py"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hermes_nb import merge, models
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import survival

LAYERS = ("model.layers.2.mlp.up_proj", "model.layers.10.mlp.up_proj")


@pytest.fixture
def folders(tmp_path):
    """A base of two layers in two files, and an adapter of both as PEFT writes it: r = 2, alpha = 4."""
    torch.manual_seed(0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    tensors = {}
    for i, layer in enumerate(LAYERS):
        save_file({f"{layer}.weight": (0.02 * torch.randn(64, 64)).bfloat16()}, base / f"model-{i}.safetensors")
        tensors[f"base_model.model.{layer}.lora_A.weight"] = 1e-3 * torch.randn(2, 64)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = 1e-3 * torch.randn(64, 2) * 10**i
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    return base, adapter


def test_the_delta_is_scaled_by_alpha_over_r():
    """A forgotten scale makes a merged model of half or double the training.

    By hand: r = 1, alpha = 2, B = (1, 3), A = (2, 5): 2/1 * [[2, 5], [6, 15]].
    """
    found = survival.delta(torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0], [3.0]]), alpha=2, r=1)
    assert found.tolist() == [[4.0, 10.0], [12.0, 30.0]]


def test_what_survives_by_hand():
    """bf16 keeps 8 bits: above 1 its steps are 2^-7 = 0.0078, so 0.001 leaves no trace and 0.0078125 all of it.

    delta = (2^-7, 0.001), kept = (2^-7, 0): cosine 0.0078125 / sqrt(0.0078125^2 + 0.001^2) = 0.99191.
    """
    found = survival.survives(torch.tensor([[1.0, 1.0]]), torch.tensor([[2**-7, 0.001]]), "bfloat16")
    assert found["unchanged"] == 0.5
    assert found["cosine"] == pytest.approx(0.99191, abs=1e-5)
    assert found["error"] == pytest.approx(0.001 / 0.0078762, rel=1e-3)
    assert found["relative_delta"] == pytest.approx(0.0078762 / 2**0.5, rel=1e-3)


def test_rounding_eats_a_dpo_sized_delta():
    """The lesson rests on these: at 1e-3 of the weights' norm bf16 keeps 0.64 of the direction, NF4 0.007."""
    rows = {r["dtype"]: r for r in survival.ladder([1e-3])}
    assert rows["float32"]["cosine"] > 0.9999
    assert rows["float16"]["cosine"] == pytest.approx(0.98, abs=0.01)
    assert rows["bfloat16"]["cosine"] == pytest.approx(0.64, abs=0.02)
    assert abs(rows["nf4"]["cosine"]) < 0.02
    assert rows["bfloat16"]["unchanged"] > 0.7 > 0.1 > rows["float32"]["unchanged"]
    assert rows["nf4"]["error"] > 1 > rows["bfloat16"]["error"] > rows["float16"]["error"]
    assert all(r["relative_delta"] == pytest.approx(1e-3, rel=1e-4) for r in rows.values())


def test_larger_deltas_survive_better():
    """A curve that falls would say that the measure is wrong."""
    for dtype in ("bfloat16", "nf4"):
        kept = [r["cosine"] for r in survival.ladder([1e-3, 1e-2, 1e-1], [dtype], (128, 128))]
        assert kept == sorted(kept)


def test_no_delta_is_no_division_by_zero():
    """A fresh adapter has B = 0."""
    found = survival.survives(torch.ones(2, 2), torch.zeros(2, 2), "bfloat16")
    assert found == {"cosine": 0.0, "unchanged": 1.0, "error": 0.0, "relative_delta": 0.0}


def test_nf4_is_the_rounding_that_the_base_was_loaded_with(tiny_base, tiny_cache):
    """Another block size or no double quantization would show numbers of another model."""
    layer = "model.layers.1.mlp.up_proj"
    loaded = models.dequantize(models.load_4bit(tiny_base, "float32"), "float32").state_dict()[f"{layer}.weight"]
    assert torch.allclose(survival.rounded(survival.weight_of(tiny_base, layer), "nf4"), loaded, atol=1e-6)


def test_layers_come_in_order_with_their_own_numbers(folders):
    """Layer 2 stands before layer 10, whatever the file's order, and each is measured with its own delta."""
    base, adapter = folders
    rows = survival.by_layer(base, adapter, "bfloat16")
    assert [r["layer"] for r in rows] == list(LAYERS)
    for row in rows:
        weight, delta = survival.weight_of(base, row["layer"]), survival.delta_of(adapter, row["layer"])
        assert row["cosine"] == survival.survives(weight, delta, "bfloat16")["cosine"]
        assert row["relative_delta"] == pytest.approx((delta.norm() / weight.norm()).item())
    assert rows[1]["cosine"] > rows[0]["cosine"]


def test_what_a_stage_alone_has_moved(folders, tmp_path):
    """DPO goes on in SFT's adapter: its own part is the difference, each with its own alpha / r; of itself it is 0."""
    base, adapter = folders
    later = tmp_path / "later"
    shutil.copytree(adapter, later)
    (later / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}))
    assert [r["relative_delta"] for r in survival.by_layer(base, adapter, "float32", since=adapter)] == [0.0, 0.0]
    whole = [r["relative_delta"] for r in survival.by_layer(base, adapter, "float32")]
    half = [r["relative_delta"] for r in survival.by_layer(base, later, "float32", since=adapter)]
    assert half == pytest.approx([w / 2 for w in whole])


def test_the_delta_read_is_what_peft_merges(folders, tiny_base, tmp_path, recipe, rows):
    """Keys, scale and shapes are PEFT's: the merged weight is base plus `delta_of`."""
    from hermes_nb import sft

    run = sft.train(recipe, rows["sft"], tmp_path / "run", watch=lambda *a: None)
    folder = merge.merge(tiny_base, run.adapter, tmp_path / "m", onto="original", dtype="float32")
    for layer in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        whole = load_file(folder / "model.safetensors")[f"{layer}.weight"]
        assert torch.allclose(whole, survival.weight_of(tiny_base, layer) + survival.delta_of(run.adapter, layer))


def test_what_does_not_fit_is_said(folders, tmp_path):
    """An unknown format, a base of another model, a folder that is no adapter."""
    base, adapter = folders
    with pytest.raises(RecipeProblem, match="no number format 'int8'"):
        survival.rounded(torch.ones(2), "int8")
    (base / "model-1.safetensors").unlink()
    with pytest.raises(FileProblem, match="one model"):
        survival.by_layer(base, adapter, "bfloat16")
    with pytest.raises(FileProblem, match="no adapter here"):
        survival.by_layer(base, tmp_path, "bfloat16")


def test_the_base_is_found_by_name_or_folder(tiny_base, tmp_path):
    """What a recipe calls the base must lead to its weights."""
    assert str(survival.base_folder(tiny_base)) == tiny_base
    with pytest.raises(FileProblem, match="no such model folder"):
        survival.base_folder(str(tmp_path / "nowhere"))


def test_the_choice_has_its_reason():
    """A choice without a reason is a habit."""
    for device in ("cpu", "cuda"):
        assert merge.reason(device).startswith(f"saved as {merge.choose_dtype(device)} on {device}: ")


def test_an_adapter_without_a_tokenizer_takes_the_base_s(tiny_base, tiny_cache, recipe, rows, tmp_path):
    """The shipped adapters are small because they bring no tokenizer; without a template it is refused as before."""
    from transformers import AutoTokenizer

    from hermes_nb import sft

    run = sft.train(recipe, rows["sft"], tmp_path / "run", watch=lambda *a: None)
    with_its_own = merge.merge(tiny_base, run.adapter, tmp_path / "a")
    expected = AutoTokenizer.from_pretrained(with_its_own)
    for file in [*run.adapter.glob("*token*"), *run.adapter.glob("*.jinja")]:
        file.unlink()
    with pytest.raises(FileProblem, match="no tokenizer beside the adapter"):
        merge.merge(tiny_base, run.adapter, tmp_path / "b")
    folder = merge.merge(tiny_base, run.adapter, tmp_path / "b", template="chatml")
    found = AutoTokenizer.from_pretrained(folder)
    assert (found.chat_template, found.eos_token_id) == (expected.chat_template, expected.eos_token_id)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"][0] == expected.eos_token_id
    assert str(tmp_path) not in (folder / "tokenizer_config.json").read_text()
    assert tiny_base not in (folder / "tokenizer_config.json").read_text()
