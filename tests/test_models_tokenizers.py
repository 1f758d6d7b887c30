"""Run alone: python -m pytest tests/test_models_tokenizers.py"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import WORDS
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer

from hermes_nb import merge, models, sft, templates
from hermes_nb.errors import FileProblem
from hermes_nb.publish import layout

TALKS = {
    "roles": [{"role": "system", "content": "be short."}, {"role": "user", "content": "user or assistant?"}],
    "turns": [
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day."},
        {"role": "user", "content": "and now?\n\ntwo lines\n"}, {"role": "assistant", "content": "yes.\n"},
    ],
    "blanks": [{"role": "user", "content": "  before  and\tafter  "}],
    "unicode": [{"role": "user", "content": "Größe é 日本語 🙂 — na\u00efve\u00a0x\t12"}],
    "control": [{"role": "user", "content": "a <|im_end|>\n<|im_start|>system\nb </s> c"}],
}  # fmt: skip


def joined():
    """Merges that build the words of ChatML's roles and of WORDS, left to right, with the blank in front or without."""
    merges, pieces = [], []
    for word in sorted({"user", "system", "assistant", *WORDS.split()}):
        for start in ("\u2581" + word, word):
            for end in range(2, len(start) + 1):
                if (start[: end - 1], start[end - 1]) not in merges:
                    merges.append((start[: end - 1], start[end - 1]))
                    pieces.append(start[:end])
    return merges, pieces


def sentencepiece_base(folder: Path, hub_form: bool = False) -> Path:
    """Tokenizer files as the hub has them for Llama 2 and Mistral: class, `legacy`, byte fallback, tokenizer.model."""
    merges, pieces = joined()
    letters = sorted({letter for word in pieces for letter in word})
    order = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *pieces]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(order))}
    raw = Tokenizer(BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if hub_form:
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = ("<unk>", "<s>", "</s>", "<|im_end|>", "<|im_start|>")
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in named])
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"unk_token": "<unk>", "add_bos_token": True, "additional_special_tokens": ["<|im_start|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(b"the order of merges")
    return folder


@pytest.fixture(params=["chatml", "zephyr"])
def template(request):
    return request.param


@pytest.fixture(params=["metaspace", "hub form"])
def spm(request, tmp_path):
    """A SentencePiece-like base in the two forms that `tokenizer.json` has for it."""
    return sentencepiece_base(tmp_path / "base", request.param == "hub form")


def whole_ids(tokenizer, talk):
    return tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]


def same(trained, folder):
    """The folder read again is the tokenizer of training, in ids and in everything that ends or hides a token."""
    again = AutoTokenizer.from_pretrained(folder)
    for talk in TALKS.values():
        assert whole_ids(again, talk) == whole_ids(trained, talk)
        for message in talk:
            assert again(message["content"])["input_ids"] == trained(message["content"])["input_ids"]
    assert again.chat_template == trained.chat_template
    assert (again.eos_token, again.eos_token_id) == (trained.eos_token, trained.eos_token_id)
    assert (again.pad_token, again.pad_token_id) == (trained.pad_token, trained.pad_token_id)
    assert again.extra_special_tokens == trained.extra_special_tokens
    ids = whole_ids(trained, TALKS["control"])
    assert again.decode(ids, skip_special_tokens=True) == trained.decode(ids, skip_special_tokens=True)


def test_a_sentencepiece_tokenizer_makes_the_ids_of_training_after_saving(spm, template, tmp_path):
    """A role word cut otherwise than in training stands in front of every answer that the model gives."""
    trained = models.tokenizer(str(spm), template)
    same(trained, models.save_tokenizer(trained, tmp_path / "out"))
    if template == "chatml":
        assert "\u2581user" in trained.convert_ids_to_tokens(whole_ids(trained, TALKS["blanks"]))


def test_a_byte_level_tokenizer_makes_the_ids_of_training_after_saving(tiny_base, template, tmp_path):
    """The common kind must not pay for the other's trap."""
    trained = models.tokenizer(tiny_base, template)
    folder = models.save_tokenizer(trained, tmp_path / "out")
    same(trained, folder)
    assert not (folder / "tokenizer.model").exists()
    assert not (folder / "added_tokens.json").exists()


@pytest.mark.slow
def test_the_built_in_tokenizer_makes_the_ids_of_training_after_saving(tmp_path):
    """What the course saves is what its readers load."""
    trained = models.tokenizer("builtin", "chatml")
    same(trained, models.save_tokenizer(trained, tmp_path / "out"))


def test_the_config_is_read_by_every_version_and_names_no_path(spm, tmp_path):
    """transformers 4 fails at the class of transformers 5 and at a list of extra tokens; a path names its owner."""
    trained = models.tokenizer(str(spm), "chatml")
    before = models.tokenizer(str(spm), "chatml").save_pretrained(tmp_path / "plain") and json.loads(
        (tmp_path / "plain" / "tokenizer_config.json").read_text()
    )
    config = json.loads((models.save_tokenizer(trained, tmp_path / "out") / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert before["extra_special_tokens"] == ["<|im_start|>"] == config["additional_special_tokens"]
    other = ("tokenizer_class", "extra_special_tokens", "additional_special_tokens")
    assert {k: v for k, v in before.items() if k not in other} == {k: v for k, v in config.items() if k not in other}
    kept = {"pad_token": "/", "name_or_path": "hub/name", "note": None}
    (tmp_path / "out" / "tokenizer_config.json").write_text(
        json.dumps(kept | {"vocab_file": str(tmp_path / "tokenizer.model")})
    )
    models.plain_class(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written == kept | {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_the_same_tokenizer_gives_the_same_bytes(spm, tmp_path):
    """A stage that goes on after a kill must leave what an unbroken one leaves."""
    trained = models.tokenizer(str(spm), "chatml")
    first, second = models.save_tokenizer(trained, tmp_path / "a"), tmp_path / "b"
    models.save_tokenizer(models.tokenizer(str(spm), "chatml"), second)
    models.save_tokenizer(trained, second)  # over what stands there
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_llama_cpp_finds_the_order_of_merges_and_the_added_tokens(spm, tmp_path):
    """Without the two files it cuts words otherwise, and `<|im_end|>` is text to it."""
    folder = models.save_tokenizer(models.tokenizer(str(spm), "chatml"), tmp_path / "out")
    assert (folder / "tokenizer.model").read_bytes() == b"the order of merges"
    trained = AutoTokenizer.from_pretrained(folder)
    added = json.loads((folder / "added_tokens.json").read_text())
    assert added == {t: trained.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>")}
    assert layout.gguf_problems(folder) == []


def test_a_hub_base_gives_its_model_file_and_a_silent_hub_loses_nothing(spm, tmp_path, monkeypatch):
    """A file that cannot be fetched must not cost the training that has just ended."""
    import huggingface_hub

    trained, asked = models.tokenizer(str(spm), "chatml"), []
    vars(trained).pop("vocab_file", None)
    trained.init_kwargs.pop("vocab_file", None)
    trained.name_or_path = "someone/model"

    def fetched(name, file, revision, token):
        asked.append((name, file, revision))
        return str(spm / "tokenizer.model")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    assert (models.save_tokenizer(trained, tmp_path / "a", "v1") / "tokenizer.model").is_file()
    assert asked == [("someone/model", "tokenizer.model", "v1")]
    monkeypatch.undo()
    folder = models.save_tokenizer(trained, tmp_path / "b")  # the tests' hub is offline
    assert not (folder / "tokenizer.model").exists()
    same(trained, folder)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("class", r"id \d+: \u2581user .* in training, user .* when read"),
        ("template", "chat template: .* in training, None when read"),
        ("stop", "stop token: "),
        ("special", "special tokens: "),
    ],
)
def test_a_folder_that_reads_otherwise_is_refused(spm, tmp_path, monkeypatch, broken, said):
    """A proof that passes everything proves nothing: each thing it looks at is broken once."""
    from hermes_nb.models import tokenizers

    right = tokenizers.plain_class

    def wrong(folder):
        right(folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        if broken == "class":
            config["tokenizer_class"] = "LlamaTokenizer"
        elif broken == "template":
            (folder / "chat_template.jinja").unlink()
        elif broken == "stop":
            config["eos_token"] = "<unk>"
        else:
            held = json.loads((folder / "tokenizer.json").read_text())
            held["added_tokens"] = [t | {"special": t["content"] != "<|im_start|>"} for t in held["added_tokens"]]
            (folder / "tokenizer.json").write_text(json.dumps(held))
            config.pop("additional_special_tokens")
        path.write_text(json.dumps(config))

    monkeypatch.setattr(tokenizers, "plain_class", wrong)
    with pytest.raises(FileProblem, match=f"(?s){said}"):
        models.save_tokenizer(models.tokenizer(str(spm), "chatml"), tmp_path / "out")


@pytest.fixture
def trained(template, recipe, rows, tmp_path):
    """A tiny base with a SentencePiece-like tokenizer, and an SFT stage on it: (base, stage, recipe)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = sentencepiece_base(tmp_path / "base", hub_form=True)
    size = len(AutoTokenizer.from_pretrained(base))
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=size, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(base)
    recipe = replace(recipe, model=replace(recipe.model, base=str(base), template=template))
    return base, sft.train(recipe, rows["sft"], tmp_path / "run", watch=lambda *a: None), recipe


def test_a_merge_on_a_sentencepiece_base_reads_the_same_everywhere(trained, template, tmp_path):
    """From training to the merged folder: the ids of training, and nothing that another program trips over."""
    base, run, _ = trained
    tokenizer = models.tokenizer(str(base), template)
    same(tokenizer, run.adapter)
    out = merge.merge(str(base), run.adapter, tmp_path / "merged")
    same(tokenizer, out)
    assert layout.layout_problems(out) == []
    assert layout.gguf_problems(out) == []
    for file in [*run.adapter.glob("*token*.json"), *out.glob("*token*.json")]:
        assert str(tmp_path) not in file.read_text(), file


def test_tokenizer_files_of_older_runs_are_brought_to_form_by_a_merge(trained, template, tmp_path):
    """A run made before has the class that lost `legacy`; its tokenizer.json still holds the ids of training."""
    base, run, _ = trained
    tokenizer = models.tokenizer(str(base), template)
    for name in ("tokenizer.model", "added_tokens.json"):
        (run.adapter / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(run.adapter)
    assert (
        json.loads((run.adapter / "tokenizer_config.json").read_text())["tokenizer_class"] != "PreTrainedTokenizerFast"
    )
    out = merge.merge(str(base), run.adapter, tmp_path / "merged")
    same(tokenizer, out)
    assert layout.layout_problems(out) == []
    merge.weights._write_tokenizer(tokenizer, run.adapter, out, base)
    assert layout.gguf_problems(out) == []


def test_an_adapter_without_a_tokenizer_gets_the_base_s_in_every_form(trained, template, tmp_path):
    """The merge then writes the tokenizer itself, and must write it as a stage does."""
    base, run, _ = trained
    for file in [*run.adapter.glob("*token*"), *run.adapter.glob("*.jinja")]:
        file.unlink()
    out = merge.merge(str(base), run.adapter, tmp_path / "merged", template=template)
    same(models.tokenizer(str(base), template), out)
    assert layout.layout_problems(out) == layout.gguf_problems(out) == []
    assert templates.STOP[template] == AutoTokenizer.from_pretrained(out).eos_token
