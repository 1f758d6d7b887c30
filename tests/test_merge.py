"""Run alone: python -m pytest tests/test_merge.py"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hermes_nb import merge, models, sft
from hermes_nb.errors import FileProblem, RecipeProblem


@pytest.fixture
def run(recipe, rows, tmp_path):
    from dataclasses import replace

    hot = replace(recipe, sft=replace(recipe.sft, learning_rate=0.02))
    return sft.train(hot, rows["sft"], tmp_path / "run", watch=lambda *a: None)


def far(recipe, run, folder, rows):
    """Faithfulness of a merged folder, and of the base without the adapter, to base and adapter in 4 bits."""
    part = recipe.model
    tokenizer = models.tokenizer(part.base, part.template)
    trained = models.load_adapter(models.load_4bit(part.base), run.adapter)
    others = models.load_plain(str(folder), models.saved_dtype(folder)), models.load_4bit(part.base)
    return [merge.faithfulness(trained, other, tokenizer, rows["dpo"]) for other in others]


def test_merged_weights_are_dequantized_base_plus_delta(run, recipe, tmp_path):
    """W = dequant(NF4) + (alpha / r) B A in fp32, on every adapted layer; the rest as it was."""
    folder = merge.merge(recipe.model.base, run.adapter, tmp_path / "m", dtype="float32")
    base = models.dequantize(models.load_4bit(recipe.model.base), "float32").state_dict()
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    merged = load_file(folder / "model.safetensors")
    scale = recipe.lora.alpha / recipe.lora.r
    changed = 0
    for name, weight in merged.items():
        key = "base_model.model." + name.removesuffix("weight")
        if key + "lora_A.weight" in adapter:
            delta = scale * adapter[key + "lora_B.weight"] @ adapter[key + "lora_A.weight"]
            assert torch.allclose(weight, base[name].float() + delta, atol=1e-6), name
            changed += 1
        else:
            assert torch.equal(weight, base[name].float()), name
    assert changed == len(adapter) // 2 == 14


def test_the_merged_model_computes_what_was_trained(run, recipe, rows, tmp_path):
    """KL to the trained model far below that of the bare base: the delta is there, and nothing else changed."""
    folder = merge.merge(recipe.model.base, run.adapter, tmp_path / "m", dtype="float32")
    found, bare = far(recipe, run, folder, rows)
    assert found["kl"] < 0.05 * bare["kl"]
    assert found["top1"] > 0.9


def test_a_model_is_faithful_to_itself(recipe, rows):
    """KL 0, agreement 1: the measure itself adds nothing."""
    model = models.load_4bit(recipe.model.base)
    tokenizer = models.tokenizer(recipe.model.base, "chatml")
    found = merge.faithfulness(model, model, tokenizer, rows["dpo"])
    assert (found["kl"], found["top1"]) == (0.0, 1.0)
    assert found["tokens"] == sum(
        len(tokenizer.encode(r["chosen"][0]["content"], add_special_tokens=False)) + 1 for r in rows["dpo"]
    )


def test_plain_transformers_loads_it_and_it_can_stop(run, recipe, tmp_path):
    """No quantization left, template and stop token inside, greedy by default, no path of this machine."""
    folder = merge.merge(recipe.model.base, run.adapter, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(run.adapter).chat_template
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tokenizer.eos_token_id, 4], "the template's stop token, then what ended the base's answers"
    for file in folder.glob("*.json"):
        if file.name != "tokenizer.json":
            assert str(tmp_path) not in file.read_text()
            assert recipe.model.base not in file.read_text() or recipe.model.base == "builtin"


def test_the_original_base_can_be_chosen(run, recipe, tmp_path):
    """Another base, another model: the two differ by NF4's rounding."""
    a = merge.merge(recipe.model.base, run.adapter, tmp_path / "a", onto="original", dtype="float32")
    b = merge.merge(recipe.model.base, run.adapter, tmp_path / "b", onto="dequantized", dtype="float32")
    assert not torch.equal(*(load_file(f / "model.safetensors")["model.layers.0.mlp.up_proj.weight"] for f in (a, b)))


def test_what_is_there_is_not_overwritten_and_nothing_is_half_written(run, recipe, tmp_path, monkeypatch):
    """A merge that dies must not leave a folder that loads."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("")
    with pytest.raises(FileProblem, match="exists already"):
        merge.merge(recipe.model.base, run.adapter, taken)
    monkeypatch.setattr(merge.weights.shutil, "copyfile", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge.merge(recipe.model.base, run.adapter, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_saved_format_is_finer_than_the_delta(recipe, rows, tmp_path):
    """bf16 rounds a DPO-sized delta away: the merge that `auto` makes is nearer to the trained model."""
    from dataclasses import replace

    light = replace(recipe, sft=replace(recipe.sft, learning_rate=1e-3))
    run = sft.train(light, rows["sft"], tmp_path / "run", watch=lambda *a: None)
    kl = {}
    for dtype in ("auto", "bfloat16"):
        folder = merge.merge(recipe.model.base, run.adapter, tmp_path / dtype, dtype=dtype)
        kl[dtype] = far(recipe, run, folder, rows)[0]["kl"]
    assert kl["auto"] < kl["bfloat16"]
    assert (merge.choose_dtype("cpu"), merge.choose_dtype("cuda")) == ("float32", "float16")


def test_wrong_words_and_adapters_are_refused(run, recipe, tmp_path):
    """Before anything is loaded."""
    with pytest.raises(RecipeProblem, match="onto is one of"):
        merge.merge(recipe.model.base, run.adapter, tmp_path / "m", onto="orignal")
    with pytest.raises(FileProblem, match="no adapter here"):
        merge.merge(recipe.model.base, tmp_path, tmp_path / "m")


def test_saving_a_dequantized_model_still_needs_our_help(tiny_base, tiny_cache, tmp_path):
    """Fails when transformers has mended it: then `models.dequantize` can be one call."""
    models.load_4bit(tiny_base)
    cached = models.load_4bit(tiny_base)
    with pytest.raises(NotImplementedError):
        cached.dequantize().save_pretrained(tmp_path / "theirs")
    models.dequantize(models.load_4bit(tiny_base), "float32").save_pretrained(tmp_path / "ours")
