"""Equal to PEFT's own merge, bit for bit in fp32. Run alone: python -m pytest tests/test_merge_exact.py"""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hermes_nb import merge
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.merge import stored

SMALL = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 128,
         "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 3,
         "eos_token_id": 4}  # fmt: skip
MODELS = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "mistral, wide": ("mistral", {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 1}),
    "qwen2, biases": ("qwen2", {"tie_word_embeddings": True}),
    "phi3, joined": ("phi3", {"num_hidden_layers": 1}),
    "gpt2, turned": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}
ADAPTERS = {
    "plain": {"target_modules": "all-linear"},
    "rank and alpha patterns": {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 3},
                                "alpha_pattern": {"layers.0.self_attn.q_proj": 5}},
    "rsLoRA": {"target_modules": "all-linear", "use_rslora": True},
    "DoRA": {"target_modules": ["v_proj", "up_proj"], "use_dora": True},
    "one layer": {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    "head trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "k_proj"]},
    "head": {"target_modules": ["lm_head"]},
}  # fmt: skip
CASES = [(m, "plain") for m in MODELS] + [("llama", a) for a in ADAPTERS if a != "plain"]
PIECES = 1000  # entries: no tensor of these models is then worked on in one piece


def made_base(folder, kind="llama", **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SMALL | more)))
    model.save_pretrained(folder)
    return folder


def made_adapter(base, folder, seed=1, **config):
    """An adapter of random numbers, saved by PEFT."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, task_type="CAUSAL_LM", **config))
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def merged(plain_tokenizer, tmp_path):
    """A function that merges in fp32 onto the original and returns the tensors of the folder."""

    def run(base, *adapters, **how):
        plain_tokenizer.save_pretrained(adapters[-1])
        out = tmp_path / "merged"
        merge.merge(str(base), adapters, out, **({"onto": "original", "dtype": "float32"} | how))
        return {k: v for file in sorted(out.glob("*.safetensors")) for k, v in load_file(file).items()}

    return run


def by_peft(base, *adapters):
    model = AutoModelForCausalLM.from_pretrained(base)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model


def same(ours, theirs):
    tensors = theirs.state_dict()
    shared = {k for k in tensors if k not in ours}
    assert shared <= {"lm_head.weight"}, "only a tied head may be left out"
    for name, tensor in ours.items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("piece", [stored.PIECE, PIECES])
@pytest.mark.parametrize(("model", "adapter"), CASES)
def test_the_merge_is_peft_s_bit_for_bit(model, adapter, piece, merged, tmp_path, monkeypatch):
    """A scale, a pattern, a turned matrix, a forgotten tensor, rows of another piece: any of them shows in some bit."""
    monkeypatch.setattr(stored, "PIECE", piece)
    kind, more = MODELS[model]
    base = made_base(tmp_path / "base", kind, **more)
    folder = made_adapter(base, tmp_path / "adapter", **ADAPTERS[adapter])
    same(merged(base, folder), by_peft(base, folder))


def test_a_chain_is_merged_in_its_order(merged, tmp_path):
    """SFT, then a second adapter for DPO on top of it: both deltas, each with its own scale."""
    base = made_base(tmp_path / "base")
    one = made_adapter(base, tmp_path / "sft", target_modules="all-linear", lora_alpha=8)
    two = made_adapter(base, tmp_path / "dpo", seed=2, target_modules=["q_proj", "up_proj"], lora_alpha=2)
    same(merged(base, one, two), by_peft(base, one, two))


def test_a_chain_that_counts_one_adapter_twice_is_refused(merged, tmp_path):
    """Our DPO goes on training the SFT adapter: merging both would add SFT twice."""
    from hermes_nb import runs

    base = made_base(tmp_path / "base")
    one = made_adapter(base, tmp_path / "sft" / "adapter", target_modules=["q_proj"])
    two = made_adapter(base, tmp_path / "dpo" / "adapter", seed=2, target_modules=["q_proj"])
    parent = runs.file_digest(one / "adapter_model.safetensors")
    runs.write_json(tmp_path / "dpo" / "run.json", {"parent": parent, "dtype": "float32"})
    with pytest.raises(RecipeProblem, match="holds it already"):
        merged(base, one, two)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["q_proj"]])
def test_tied_embeddings_come_apart_when_the_adapter_changed_one_of_them(targets, merged, tmp_path):
    """PEFT's own merge writes into the shared tensor and so changes the other end as well: another model."""
    base = made_base(tmp_path / "base", tie_word_embeddings=True)
    folder = made_adapter(base, tmp_path / "adapter", target_modules=targets)
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    tensors = merged(base, folder)
    assert ("lm_head.weight" in tensors) == (targets != ["q_proj"])
    ids = torch.arange(5, 25)[None]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert torch.allclose(trained(ids).logits, plain(ids).logits, atol=1e-5)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] == (
        targets == ["q_proj"]
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=["frozen", "trained whole"],
)
def test_a_vocabulary_that_grew_is_merged_whole(how, tied, merged, tmp_path):
    """ChatML tokens added to a base: the adapter brings the longer embedding, and the config must say so."""
    base = made_base(tmp_path / "base", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(322, mean_resizing=False)
    config = LoraConfig(r=4, task_type="CAUSAL_LM", **how)
    wrapped = get_peft_model(model, config).eval()
    for _, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tensors = merged(base, tmp_path / "adapter")
    assert tensors["model.embed_tokens.weight"].shape == (322, 64)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert plain.config.vocab_size == 322
    ids = torch.tensor([[5, 321, 9, 320, 7]])
    with torch.no_grad():
        assert torch.allclose(wrapped(ids).logits, plain(ids).logits, atol=1e-5)


def test_only_what_training_held_in_4_bits_goes_through_nf4(merged, tiny_base, tiny_cache, tmp_path):
    """Head and embedding were never quantized; what was comes back as the very numbers that training computed with."""
    from hermes_nb import models

    folder = made_adapter(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
    for dtype in ("float32", "bfloat16"):
        (tmp_path / "run.json").write_text(json.dumps({"dtype": dtype}))
        tensors = merged(tiny_base, folder, onto="dequantized")
        seen = models.dequantize(models.load_4bit(tiny_base, dtype), "float32").state_dict()
        plain = load_file(f"{tiny_base}/model.safetensors")
        for name, tensor in tensors.items():
            if "q_proj" not in name:
                assert torch.equal(tensor, seen[name].float()), name
        to = getattr(torch, dtype)
        assert torch.equal(tensors["lm_head.weight"], plain["lm_head.weight"].to(to).float())
        assert not torch.equal(tensors["model.layers.0.mlp.up_proj.weight"], plain["model.layers.0.mlp.up_proj.weight"])
        shutil.rmtree(tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(200, 64), (130, 128), (40, 96), (300, 640)])
def test_a_weight_goes_through_nf4_in_pieces_as_it_does_whole(shape, dtype, monkeypatch):
    """The scales of all blocks are quantized together: cut wrongly, every weight of a 7B model would be a little off.

    64 rows at once, the last piece with what is left; rows of 96 are no whole number of blocks and stay together.
    """
    from bitsandbytes import functional

    from hermes_nb.merge import sums
    from hermes_nb.merge.plan import Output

    torch.manual_seed(0)
    weight = (torch.randn(shape) * torch.rand(shape[0], 1)).to(getattr(torch, dtype))
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    whole = functional.dequantize_4bit(packed, state)
    monkeypatch.setattr(stored, "PIECE", PIECES)
    monkeypatch.setattr(stored, "pieces", lambda *a: (weight[i:j] for i, j in stored.row_blocks(shape)))
    monkeypatch.setattr(stored, "read", lambda *a: weight)
    entry = stored.Entry(None, stored.FLOATS[dtype], shape)
    output = Output("w", ("w", entry), (), True, entry)
    parts = list(sums.restored(sums._blocks(output, "cpu"), dtype, torch.get_num_threads()))
    assert torch.equal(torch.cat(parts), whole)
    assert (len(parts) == 1) == (shape[1] == 96)


def test_several_files_hold_the_same_numbers_as_one(merged, tmp_path):
    """The index names every tensor once, with the true size in all."""
    base = made_base(tmp_path / "base")
    folder = made_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    many = merged(base, folder, max_shard_size="100KB")
    same(many, by_peft(base, folder))
    out = tmp_path / "merged"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(many)
    assert len(set(index["weight_map"].values())) == len(list(out.glob("*.safetensors"))) > 3
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in many.values())
    assert torch.equal(AutoModelForCausalLM.from_pretrained(out).lm_head.weight, many["lm_head.weight"])


def test_a_base_in_several_files_is_read_by_its_index(merged, tmp_path):
    """Published bases of 7B come in pieces, some with a second copy of all weights beside them."""
    base = made_base(tmp_path / "base")
    whole = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    whole.save_pretrained(base, max_shard_size="100KB")
    save_file({"odd": torch.ones(2)}, base / "consolidated.safetensors")
    folder = made_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    same(merged(base, folder), by_peft(base, folder))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_half_of_a_vocabulary_that_grew_is_refused(target, merged, tmp_path):
    """PEFT saves the longer end that has a LoRA, and not the other one: its new rows are nowhere."""
    base = made_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(322, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj", target], task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(FileProblem, match=r"for \[320, 322\] tokens"):
        merged(base, tmp_path / "adapter")


def test_a_head_that_is_stored_and_differs_is_not_tied(merged, tmp_path):
    """config.json says tied, the file holds another head: transformers then does not tie them, and neither do we."""
    base = made_base(tmp_path / "base", tie_word_embeddings=True)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    folder = made_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    assert torch.equal(merged(base, folder)["lm_head.weight"], tensors["lm_head.weight"])
    assert not json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    shutil.rmtree(tmp_path / "merged")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" not in merged(base, folder), "an equal one is the same tensor"


def test_gpt2_is_refused_on_the_dequantized_base(merged, tmp_path):
    """Its weights are quantized turned: blocks along the other axis are other numbers."""
    kind, more = MODELS["gpt2, turned"]
    base = made_base(tmp_path / "base", kind, **more)
    folder = made_adapter(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(RecipeProblem, match="onto the original only"):
        merged(base, folder, onto="dequantized")


def test_the_same_adapter_twice_is_refused(merged, tmp_path):
    """Twice the delta is no model that was trained."""
    base = made_base(tmp_path / "base")
    folder = made_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(RecipeProblem, match="named twice"):
        merged(base, folder, folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_new_scaling": True}, "use_new_scaling"),
        ({"target_modules": "["}, "does not fit"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": {"embed_tokens": [5]}}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]}, "target_parameters"),
        ({"peft_type": "IA3"}, "only LoRA and DoRA"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(config, said, merged, tmp_path):
    """A setting that nobody looked at would be merged as if it were not there."""
    base = made_base(tmp_path / "base")
    folder = made_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    path = folder / "adapter_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | config))
    with pytest.raises((RecipeProblem, FileProblem), match=said):
        merged(base, folder)
    assert not list(tmp_path.glob(".merged*"))


def test_two_dora_adapters_in_a_chain_are_refused(merged, tmp_path):
    """Each norm is of the base alone: the sum of the two is no weight."""
    base = made_base(tmp_path / "base")
    one = made_adapter(base, tmp_path / "a", target_modules=["q_proj"], use_dora=True)
    two = made_adapter(base, tmp_path / "b", seed=2, target_modules=["q_proj"])
    with pytest.raises(RecipeProblem, match="DoRA in a chain"):
        merged(base, one, two)


def test_a_model_that_is_stored_under_other_names_is_refused(merged, tmp_path):
    """Experts are joined when they are loaded: names in the file are not those of the model."""
    base = made_base(tmp_path / "base", "mixtral", num_local_experts=2, num_experts_per_tok=1)
    folder = made_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(RecipeProblem, match="other names"):
        merged(base, folder)
