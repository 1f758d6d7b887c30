"""Run alone: python -m pytest tests/test_publish_layout.py"""

import json
from shutil import copytree

import pytest

from hermes_nb.errors import FileProblem
from hermes_nb.publish import layout


@pytest.fixture(scope="module")
def whole(tiny_base, tmp_path_factory):
    """A folder as a merge leaves it: shards, index, configs that stop, tokenizer with our template."""
    from transformers import AutoModelForCausalLM

    from hermes_nb import models

    tokenizer = models.tokenizer(tiny_base, "chatml")
    folder = tmp_path_factory.mktemp("layout") / "merged"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.save_pretrained(folder, max_shard_size="200KB")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to break."""
    return copytree(whole, tmp_path / "merged")


def change(path, **values):
    """Set keys of a JSON file; None removes one."""
    held = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def index(folder):
    return json.loads((folder / layout.INDEX).read_text())


def test_a_whole_folder_has_no_problems(whole):
    """A check that cries at a good folder is switched off."""
    assert len(set(index(whole)["weight_map"].values())) > 1
    assert layout.layout_problems(whole) == []


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"architectures": None}, "config.json: no architectures"),
        ("config.json", {"quantization_config": {"load_in_4bit": True}}, "config.json: holds a quantization_config"),
        ("config.json", {"dtype": None}, "config.json: no dtype"),
        ("config.json", {"dtype": "float16"}, "config.json: dtype is float16, the tensors are F32"),
        ("config.json", {"vocab_size": 7}, "config.json: vocab_size is 7, the embedding has "),
        ("config.json", {"eos_token_id": 4}, "config.json: eos_token_id is 4 and lacks 2 (<|im_end|>)"),
        (
            "generation_config.json",
            {"eos_token_id": [4, 0]},
            "generation_config.json: eos_token_id is [4, 0] and lacks",
        ),
        ("tokenizer_config.json", {"eos_token": "</s>"}, "chat_template.jinja: an answer does not end with </s>"),
        (layout.INDEX, {"metadata": {"total_size": 1}}, f"{layout.INDEX}: total_size is 1, the tensors take "),
    ],
)
def test_a_value_that_other_programs_trip_over_is_named(folder, file, values, said):
    """Each of them loads somewhere and fails, or runs on without a stop, somewhere else."""
    change(folder / file, **values)
    assert any(line.startswith(said) for line in layout.layout_problems(folder)), layout.layout_problems(folder)


@pytest.mark.parametrize("ends", [2, [2], [2, 4], [4, 2]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_stop_token_may_stand_beside_others(folder, name, ends):
    """A merge writes the template's stop token and what ended the base's answers: a list is no problem."""
    change(folder / name, eos_token_id=ends)
    assert layout.layout_problems(folder) == []


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_named(folder, name):
    """A folder without it fails in another program, with that program's message."""
    (folder / name).unlink()
    assert any(line.startswith(f"{name}: missing") for line in layout.layout_problems(folder))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", layout.INDEX])
@pytest.mark.parametrize("text", ["", "[]", '{"a": ', "[" * 100_000], ids=["empty", "list", "cut", "deep"])
def test_a_damaged_file_is_named(folder, name, text):
    """A copy that broke off must not end the check with a traceback."""
    (folder / name).write_text(text)
    assert any(line.startswith(f"{name}: ") for line in layout.layout_problems(folder)), layout.layout_problems(folder)


def test_index_and_files_must_agree(folder):
    """A tensor that no file holds stays at its random start; a file that no line names is never read."""
    names = index(folder)["weight_map"]
    tensor, file = next(iter(names.items()))
    other = next(name for name in names.values() if name != file)
    change(folder / layout.INDEX, weight_map=names | {tensor: other})
    assert f"{tensor} ({other}): not in the file named; merge the model again." in layout.layout_problems(folder)
    change(folder / layout.INDEX, weight_map={k: v for k, v in names.items() if k != tensor})
    assert any("in a file, but not in" in line and tensor in line for line in layout.layout_problems(folder))
    change(folder / layout.INDEX, weight_map=names)
    (folder / file).unlink()
    assert any(line.startswith(f"{file}: named by") for line in layout.layout_problems(folder))


def test_many_lost_tensors_are_one_line():
    """Three hundred lines hide the second problem."""
    assert layout._few(list("abcde"), "gone") == ["a, b, c and 2 more: gone; merge the model again."]


def test_a_cut_shard_is_named(folder):
    """A download that broke off has a header and too few bytes."""
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    assert any(line.startswith(f"{shard.name}: damaged") for line in layout.layout_problems(folder))


def test_a_single_file_beside_an_index_is_named(folder, tiny_base):
    """transformers would read the single file, an old one perhaps, and not the shards."""
    from pathlib import Path

    (folder / layout.SINGLE).write_bytes((Path(tiny_base) / layout.SINGLE).read_bytes())
    assert any(line.startswith(f"{layout.SINGLE}: lies beside") for line in layout.layout_problems(folder))
    (folder / layout.INDEX).unlink()
    assert layout.layout_problems(folder) == []  # one file alone is whole, too
    (folder / layout.SINGLE).unlink()
    assert any(line.startswith(f"{layout.SINGLE}: missing") for line in layout.layout_problems(folder))


def test_a_vocabulary_larger_than_the_embedding_is_named(folder):
    """An id without a row ends a GPU run with an assertion of CUDA."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    assert any(line.startswith("tokenizer.json: its highest id") for line in layout.layout_problems(folder))


@pytest.fixture
def mistral(folder):
    """The folder with tokenizer files as a SentencePiece model of the hub has them: class, `legacy`, byte fallback."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *"usera", "us", "er", "\u2581us"]
    merges = [("u", "s"), ("e", "r"), ("\u2581", "us")]
    raw = Tokenizer(BPE({p: i for i, p in enumerate(pieces)}, merges, byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_end|>", "<|im_start|>")])
    raw.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "unk_token": "<unk>",
        "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    end = raw.token_to_id("<|im_end|>")
    for name in ("config.json", "generation_config.json"):
        change(folder / name, eos_token_id=end, pad_token_id=end)
    return folder


def test_a_llama_tokenizer_that_lost_legacy_is_named(mistral):
    """transformers 5.23 does not save `legacy`: loaded again, the word after a control token has other ids.

    When this fails because saving keeps it, the trap is gone: `_cutting` can go, and the class in `models.plain_class`.
    """
    from transformers import AutoTokenizer

    assert not [line for line in layout.layout_problems(mistral) if "PreTrainedTokenizerFast" in line]
    before = AutoTokenizer.from_pretrained(mistral)
    before.save_pretrained(mistral)
    after = AutoTokenizer.from_pretrained(mistral)
    talk = [{"role": "user", "content": "a"}]
    pieces = [
        t.convert_ids_to_tokens(t.apply_chat_template(talk, return_dict=True)["input_ids"]) for t in (before, after)
    ]
    assert [found[1] for found in pieces] == ["\u2581us", "us"]
    (line,) = [line for line in layout.layout_problems(mistral) if "PreTrainedTokenizerFast" in line]
    assert "makes us er " in line
    change(mistral / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert not [line for line in layout.layout_problems(mistral) if "PreTrainedTokenizerFast" in line]


def test_a_sentencepiece_model_needs_two_more_files_for_llama_cpp(mistral):
    """Without the order of merges it cuts words otherwise; without the added tokens `<|im_end|>` is text to it."""
    merges, added = layout.gguf_problems(mistral)
    assert merges.startswith("tokenizer.model: missing")
    assert added.startswith("added_tokens.json: missing; llama.cpp would not know <|im_end|>, <|im_start|>.")
    (mistral / "tokenizer.model").write_bytes(b"")
    (mistral / "added_tokens.json").write_text("{}")
    assert layout.gguf_problems(mistral) == []


def test_tokenizer_files_that_transformers_4_cannot_read_are_named(folder):
    """llama.cpp's requirements bring transformers 4, whose message does not say why the class is missing."""
    change(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    (line,) = layout.gguf_problems(folder)
    assert line.startswith("tokenizer_config.json: written by transformers 5")
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert layout.gguf_problems(folder) == []
    change(folder / "tokenizer_config.json", extra_special_tokens=["<new>"])
    assert len(layout.gguf_problems(folder)) == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    """Problems of nothing are none."""
    for check in (layout.layout_problems, layout.gguf_problems):
        with pytest.raises(FileProblem, match="no such folder"):
            check(tmp_path / "nowhere")
