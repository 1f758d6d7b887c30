"""The small base model and what was measured on it. Run alone: python -m pytest tests/test_samples_small_base.py"""

import importlib.util
import json
import math

import pytest
from safetensors import safe_open

from hermes_nb import formats, generate, lessons, models, templates
from hermes_nb.models.nf4 import BLOCK
from hermes_nb.runtime import samples_dir

FOLDER = lessons.small_base()
LAYERS = 4 * 7  # layers, linear layers in each
SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def script():
    """`small_base.py` as a module."""
    spec = importlib.util.spec_from_file_location("small_base_script", samples_dir() / "small_base.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    """Its tokenizer as plain transformers loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def plain():
    """The model as plain transformers loads it, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def told():
    """What was measured by `experiments.py merge_bases`."""
    return lessons.experiment("merge_bases")


@pytest.fixture(scope="module")
def training():
    """What its training left on record."""
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


def held_out_texts():
    """Every text of the held-out conversations and pairs."""
    talks = formats.load("ultrachat_200k", "conversations_held_out.jsonl")
    pairs = formats.load("orca_dpo_pairs", "pairs_held_out.jsonl")
    texts = [m["content"] for row in talks for m in row["messages"]]
    return texts + [m["content"] for row in pairs for part in ("prompt", "chosen", "rejected") for m in row[part]]


def test_the_folder_is_small_and_holds_what_a_reader_needs():
    """A pickle runs code, a path tells of somebody's machine, and a repository is cloned by everyone."""
    files = {p.name: p for p in FOLDER.iterdir()}
    assert set(files) == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "training.json",
    }  # fmt: skip
    assert sum(p.stat().st_size for p in files.values()) < 3_000_000
    for name, file in files.items():
        if name != "model.safetensors":
            text = file.read_text(encoding="utf-8")
            assert not [w for w in ("/work", "/root", "/home", "/tmp", "/Users", "C:\\") if w in text], name


def test_the_stored_weights_are_in_16_bits_and_all_there(plain, training):
    """Saved in fp32 it would be no 16-bit base; a missing tensor would be made up at random by the loader."""
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    assert {str(t.dtype) for t in stored.values()} == {"torch.bfloat16"}
    assert set(stored) == set(dict(plain.named_parameters()))  # the head is the embeddings
    assert 1_000_000 <= sum(t.numel() for t in stored.values()) == training["parameters"] <= 1_500_000
    assert models.saved_dtype(FOLDER) == "bfloat16"
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["attention_dropout"] == 0.0, "with it DPO's policy would differ from its reference at step 0"
    assert "quantization_config" not in config


def test_every_linear_layer_is_whole_blocks(plain):
    """bitsandbytes on a CPU restores wrong numbers when a row is not a whole number of blocks."""
    import torch

    layers = {n: m for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert len(layers) == LAYERS
    assert not [n for n, m in layers.items() if m.in_features % BLOCK or m.out_features % BLOCK]


def test_the_tokenizer_gives_back_held_out_texts_and_knows_the_stop(tokenizer):
    """A text that does not come back, or a stop of several tokens, and no answer could be scored or end."""
    texts = held_out_texts()
    assert len(texts) > 300
    assert [tokenizer.decode(tokenizer.encode(t)) for t in texts] == texts
    strange = "naïve 🐶 \u00a0«x» \t\r\n 日本"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange
    assert tokenizer.eos_token == templates.STOP["chatml"]
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id]
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.chat_template == templates.text("chatml")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((FOLDER / file).read_text())["eos_token_id"] == tokenizer.eos_token_id


def test_it_was_trained_on_our_rows_and_on_no_held_out_one(script, tokenizer, training):
    """A base that has seen the held-out answers would make every held-out figure of 04 a memory test."""
    talks = script.conversations()
    assert len(talks) == training["conversations"]
    seen = {m["content"] for messages in talks for m in messages if m["role"] != "system"}
    held = [
        row for name in ("conversations", "pairs", "pairs_own_answers") for row in script.read(f"{name}_held_out.jsonl")
    ]
    texts = {m["content"] for row in held for m in row.get("messages", ()) if m["role"] != "system"}
    texts |= {row[part] for row in held for part in ("question", "chosen", "rejected") if part in row}
    assert not seen & texts
    made = script.make_tokenizer([m["content"] for messages in talks for m in messages])
    assert made.get_vocab() == tokenizer.get_vocab(), "rows or script have changed: make small-base"


def test_it_learned_the_language_of_the_rows(script, tokenizer, plain, training):
    """Of a model that only counts words nothing could be preferred; the figures on record are those of the weights."""
    rows, held = (script.answers(tokenizer, talks) for talks in (script.conversations(), script.held_out()))
    assert len(held) == 120
    loss, counted = script.answer_loss(plain, held), script.unigram(rows, held)
    assert loss == pytest.approx(training["held_out_answer_loss"], abs=2e-3)
    assert counted == pytest.approx(training["held_out_unigram_loss"], abs=2e-3)
    assert loss < counted - 1
    assert training["last_loss"] < training["first_loss"] / 2
    assert training["first_loss"] == pytest.approx(math.log(2048), abs=0.2)  # untrained: every token alike
    assert training["steps"] == training["epochs"] * math.ceil(training["conversations"] / training["rows_per_step"])
    assert training["seconds"] < 300


def test_in_4_bits_it_is_all_linear_layers_but_the_head(tiny_cache):
    """What is left in 16 bits is the same onto either base, and would show no difference."""
    import bitsandbytes
    import torch

    model = models.load_4bit(str(FOLDER))
    quantized = {n for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert len(quantized) == LAYERS
    assert linear - quantized == {"lm_head"}


def test_it_writes_something_and_can_stop(plain, tokenizer):
    """A base that never ends an answer would make every rate of 04 zero."""
    asked = formats.load("orca_dpo_pairs", "pairs_held_out.jsonl").select(range(8))
    answers = generate.answers(plain, tokenizer, [generate.prompt_of(r) for r in asked], 120, generate.GREEDY, 0)
    assert all(a.text.strip() for a in answers)
    assert sum(a.stops for a in answers) >= 6
    assert len({a.text for a in answers}) > 1


def test_the_readme_says_what_it_is(training):
    """Weights without a word on where they come from cannot be used by anyone."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for said in ("no assistant", "make small-base", "Apache-2.0", "rounded once to bf16", "No held-out file"):
        assert said in text
    for name in ("held_out_answer_loss", "held_out_unigram_loss", "train_answer_loss"):
        assert f"{training[name]:.2f}" in text, name


def merged(rows, **wanted):
    """Rows of merged models with these values."""
    return [r for r in rows if r["model"] == "merged" and all(r[k] == v for k, v in wanted.items())]


@pytest.mark.parametrize("which", ["rows", "rows_strong"])
def test_the_measurement_is_whole(told, which):
    """A missing seed or a number that is none would be averaged away in a figure."""
    rows = told[which]
    for onto in ("dequantized", "original"):
        for dtype in ("float32", "float16", "bfloat16"):
            assert [r["seed"] for r in merged(rows, onto=onto, dtype=dtype)] == SEEDS
    for model in ("trained", "base"):
        assert [r["seed"] for r in rows if r["model"] == model] == SEEDS
    numbers = [v for r in rows for v in r.values() if isinstance(v, float)]
    assert len(numbers) > 150
    assert all(map(math.isfinite, numbers))
    assert all(0 <= r[k] <= 1 for r in rows for k in ("accuracy", "accuracy_own"))
    assert told["seeds"] == SEEDS
    assert "{" not in told["note"]


@pytest.mark.parametrize("which", ["rows", "rows_strong"])
def test_the_dequantized_fp32_merge_is_the_nearest_to_what_was_trained(told, which):
    """04 chooses it by default: were another nearer, the lesson would teach the wrong thing."""
    for seed in SEEDS:
        ways = {(r["onto"], r["dtype"]): r for r in merged(told[which], seed=seed)}
        for kl in ("kl", "kl_exact"):
            assert min(ways, key=lambda way, kl=kl: ways[way][kl]) == ("dequantized", "float32")
        exact = [ways["dequantized", dtype]["kl_exact"] for dtype in ("float32", "float16", "bfloat16")]
        assert exact == sorted(exact)
        assert ways["dequantized", "bfloat16"]["kl"] * 20 < ways["original", "float32"]["kl"]


def test_merged_onto_original_it_is_further_off_than_training_moved_it(told):
    """The claim of 04's figure; with a delta several times larger it no longer holds, and the text must say so."""
    for which, further in (("rows", True), ("rows_strong", False)):
        for seed in SEEDS:
            (base,) = (r for r in told[which] if r["model"] == "base" and r["seed"] == seed)
            (original,) = merged(told[which], onto="original", dtype="float32", seed=seed)
            assert (original["kl"] > 3 * base["kl"]) == further
            assert (base["kl"] > 3 * original["kl"]) == (not further)


def test_nf4_errs_by_more_than_a_delta_of_dpo(told):
    """Which of the two is larger is what the text of 04 says, for both models."""
    for model in ("small", "builtin"):
        size = told["sizes"][model]
        assert size["delta"]["median"] < size["nf4_error"]["low"] / 5
        assert 0.08 < size["nf4_error"]["median"] < 0.11  # of normal weights it is 0.09
    assert told["sizes"]["small"]["layers"] == LAYERS
    assert 1e-3 < told["sizes"]["small"]["delta"]["median"] < 1e-2


def test_training_had_an_effect_that_merging_can_lose(told):
    """Were the adapter idle, every way to merge would be equally faithful."""
    for which in ("rows", "rows_strong"):
        trained = [r["accuracy"] for r in told[which] if r["model"] == "trained"]
        assert sum(trained) / len(trained) > 0.75  # untrained it is 0 by definition, by chance 0.5
    cards = {m: [r["card"] for r in told["rows_strong"] if r["model"] == m] for m in ("base", "trained")}
    assert min(cards["trained"]) > max(cards["base"]) + 0.3
