"""Run alone: python -m pytest tests/test_merge_survival.py"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge_exact import made_adapter, made_base

from hermes_nb import merge, models
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import stored, survival

LAYERS = ("model.layers.2.mlp.up_proj", "model.layers.10.mlp.up_proj")


@pytest.fixture
def folders(tmp_path):
    """A base of eleven layers, and an adapter of two of them as PEFT writes it; one has a larger delta."""
    base = made_base(tmp_path / "base", num_hidden_layers=11)
    adapter = made_adapter(base, tmp_path / "adapter", target_modules=["up_proj"], layers_to_transform=[2, 10],
                           lora_alpha=8)  # fmt: skip
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for key in tensors:
        tensors[key] *= (2e-3 if ".2." in key else 1e-2) if "lora_A" in key else 1e-1
    save_file(tensors, file)
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
    config = json.loads((adapter / "adapter_config.json").read_text())
    (later / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 12}))
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


@pytest.mark.parametrize(
    ("base", "how", "layers"),
    [
        (("llama", {"tie_word_embeddings": True}), {"target_modules": ["lm_head"]}, {"lm_head"}),
        (("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}), {"target_modules": ["c_fc"]},
         {"transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"}),
        (("llama", {}), {"target_modules": ["embed_tokens"]}, {"model.embed_tokens"}),
        (("llama", {}), {"target_modules": ["v_proj"], "use_dora": True, "layers_to_transform": [0]},
         {"model.layers.0.self_attn.v_proj"}),
        (("llama", {}), {"target_modules": ["v_proj"], "modules_to_save": ["model.norm"], "layers_to_transform": [0]},
         {"model.layers.0.self_attn.v_proj", "model.norm"}),
    ],
    ids=["head of a tied base", "turned", "embedding alone", "DoRA", "norm trained whole"],
)  # fmt: skip
def test_whatever_can_be_merged_is_measured_as_it_is_merged(base, how, layers, plain_tokenizer, tmp_path, monkeypatch):
    """At the end of a comparison: no such weight, a matrix that is turned, or the median of nothing."""
    folder = made_base(tmp_path / "base", base[0], **base[1])
    adapter = made_adapter(folder, tmp_path / "adapter", **how)
    plain_tokenizer.save_pretrained(adapter)
    monkeypatch.setattr(stored, "PIECE", 64 * 64)  # several pieces of each weight
    found = {row["layer"]: row for row in survival.by_layer(folder, adapter, "float32")}
    assert set(found) == layers
    merged = load_file(merge.merge(str(folder), adapter, tmp_path / "m", "original", "float32") / "model.safetensors")
    before = load_file(folder / "model.safetensors")
    for layer, row in found.items():
        was = before[f"{layer}.weight" if f"{layer}.weight" in before else "model.embed_tokens.weight"]
        now = merged[f"{layer}.weight"]
        assert row["relative_delta"] == pytest.approx(((now - was).norm() / was.norm()).item(), rel=1e-4)
        assert row["cosine"] > 0.999


def test_an_embedding_that_was_saved_but_not_trained_is_no_layer(plain_tokenizer, tmp_path):
    """PEFT saves embeddings beside the adapter in some cases: their delta of 0 would be the lowest of all."""
    base = made_base(tmp_path / "base")
    adapter = made_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"] = load_file(base / "model.safetensors")["lm_head.weight"]
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    assert [r["layer"] for r in survival.by_layer(base, adapter, "float32")] == [
        f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)
    ]


@pytest.mark.parametrize("dtype", survival.FORMATS)
@pytest.mark.parametrize("shape", [(200, 64), (130, 96), (640,)])
def test_pieces_give_the_numbers_of_the_whole(shape, dtype, monkeypatch):
    """Sums over pieces; nf4's scales belong to the whole weight, and rows of 96 are no whole number of blocks."""
    torch.manual_seed(0)
    weight, delta = 0.02 * torch.randn(shape), 2e-4 * torch.randn(shape)
    kept = survival.rounded(weight + delta, dtype) - survival.rounded(weight, dtype)
    size = delta.norm()
    monkeypatch.setattr(stored, "PIECE", 64)
    assert survival.survives(weight, delta, dtype) == pytest.approx({
        "cosine": ((kept * delta).sum() / (size * kept.norm())).item() if kept.norm() else 0.0,
        "unchanged": (kept == 0).float().mean().item(),
        "error": ((kept - delta).norm() / size).item(),
        "relative_delta": (size / weight.norm()).item(),
    }, rel=1e-4, abs=1e-6)  # fmt: skip


def test_a_weight_of_a_7b_model_is_measured_in_the_memory_of_a_piece(monkeypatch):
    """Eight copies of a matrix of 14,336 x 4,096 in fp32 and fp64 are 2.2 GB."""
    most, real = [], survival.rounded

    def rounded(rows, dtype):
        most.append(rows.numel())
        return real(rows, dtype)

    monkeypatch.setattr(survival, "rounded", rounded)
    survival.survives(torch.zeros(4096, 1024), torch.zeros(4096, 1024), "bfloat16")
    assert max(most) <= stored.PIECE


def test_what_does_not_fit_is_said(folders, tmp_path):
    """An unknown format, a base of another model, a folder that is no adapter."""
    base, adapter = folders
    with pytest.raises(RecipeProblem, match="no number format 'int8'"):
        survival.rounded(torch.ones(2), "int8")
    tensors = load_file(base / "model.safetensors")
    del tensors[f"{LAYERS[1]}.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileProblem, match=r"holds no .*layers\.10.*one model"):
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
    with pytest.raises(FileProblem, match="no tokenizer beside it"):
        merge.merge(tiny_base, run.adapter, tmp_path / "b")
    folder = merge.merge(tiny_base, run.adapter, tmp_path / "b", template="chatml")
    found = AutoTokenizer.from_pretrained(folder)
    assert (found.chat_template, found.eos_token_id) == (expected.chat_template, expected.eos_token_id)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"][0] == expected.eos_token_id
    assert str(tmp_path) not in (folder / "tokenizer_config.json").read_text()
    assert tiny_base not in (folder / "tokenizer_config.json").read_text()
