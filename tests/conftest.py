"""Fixtures: a throw-away tokenizer and tiny random models made in memory, and the built-in model for `slow` tests."""

import gc
import os
from dataclasses import replace

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub is a defect
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same tests everywhere
os.environ.pop("HERMES_SCALE", None)

from hermes_nb import runtime

runtime.quiet()

WORDS = "the model answers a question about rain and bread in one short line because it was asked to do so today"
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder of this test session; `tiny_cache` points the package at it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_cache(cache, monkeypatch):
    """Keep the NF4 forms of throw-away models out of the user's cache."""
    monkeypatch.setenv("HERMES_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def plain_tokenizer(tmp_path_factory):
    """A byte-level BPE tokenizer of about 300 tokens that knows ChatML's and Zephyr's stop tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [WORDS, "\n\n\n\n"] * 40, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, plain_tokenizer):
    """Folder of a tiny random Llama with its tokenizer: 2 layers of 64, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(plain_tokenizer), max_position_embeddings=512, bos_token_id=3, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny") / "base"
    LlamaForCausalLM(config).save_pretrained(folder)
    plain_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def rows():
    """Twelve pairs and twelve conversations of plain words, with `kind`, `source` and `row`."""
    import datasets

    words = WORDS.split()

    def text(i, n):
        return " ".join(words[(i * 4 + k) % len(words)] for k in range(n))

    def pair(i):
        return {
            "prompt": [{"role": "user", "content": text(i, 4)}],
            "chosen": [{"role": "assistant", "content": text(i + 1, 5)}],
            "rejected": [{"role": "assistant", "content": text(i + 2, 7)}],
        }

    def talk(i):
        return {"messages": pair(i)["prompt"] + pair(i)["chosen"]}

    marks = [{"kind": "ab"[i % 2], "source": "here", "row": i} for i in range(12)]
    return {
        "dpo": datasets.Dataset.from_list([pair(i) | m for i, m in enumerate(marks)]),
        "sft": datasets.Dataset.from_list([talk(i) | m for i, m in enumerate(marks)]),
    }


@pytest.fixture
def recipe(tiny_base, tiny_cache):
    """A recipe of three steps on the tiny model."""
    from hermes_nb import recipes

    few = {"rows_per_step": 4, "rows_per_device": 2, "max_steps": 3, "max_length": 128}
    base = recipes.load("course", "tiny", overrides={"sft": few, "dpo": few, "needs_gb": 0})
    evaluate = replace(base.evaluate, questions=4, samples=1, greedy_questions=2, max_new_tokens=8)
    return replace(base, model=replace(base.model, base=tiny_base), evaluate=evaluate)


@pytest.fixture(scope="module")
def builtin_model():
    """The built-in model in 4 bits, loaded once a module, and its tokenizer."""
    from hermes_nb import models

    return models.load_4bit("builtin"), models.tokenizer("builtin", "chatml")


@pytest.fixture(scope="module")
def frozen():
    """Half the time of a tiny training is Python's search for garbage among the libraries' objects: leave them out."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cpu_fp32(monkeypatch):
    """Compute in fp32 whatever this machine likes better."""
    facts = runtime._hardware()
    monkeypatch.setattr(runtime, "_hardware", lambda: (*facts[:-1], False))
    assert runtime.machine().dtype in ("float32", "float16")


@pytest.fixture
def shown(monkeypatch):
    """The bundles that reach the notebook, in place of `IPython.display.display`."""
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw=False: seen.append(data))
    return seen
