"""A tokenizer written so that every reader of its folder makes the ids of training. Lessons: 02_qlora_sft, 04_merge."""

import json
import shutil
from itertools import zip_longest
from pathlib import Path

from hermes_nb import templates
from hermes_nb.errors import FileProblem
from hermes_nb.runtime import token

AS_IS = (
    "PreTrainedTokenizerFast"  # the one class name that transformers 4 and 5 both know and that reads tokenizer.json
)
SPM, ADDED, CONFIG = "tokenizer.model", "added_tokens.json", "tokenizer_config.json"
NEXT = "This transformers cannot save that tokenizer faithfully; use another version of it, or another base."
PROBES = (
    "system user assistant", "user\nwhy?", "  two  blanks ", "\n\n\ttab\n",
    "x\u00a0y \u4e2d\u6587 \U0001f642 na\u00efve 12",
)  # fmt: skip
TALK = [
    {"role": "user", "content": "Why does bread rise?"},
    {"role": "assistant", "content": "Yeast makes gas.\n\n  It is caught."},
    {"role": "user", "content": " And then? "},
]


def save_tokenizer(tokenizer, folder: Path | str, revision: str | None = None) -> Path:
    """Write `tokenizer` into `folder` and prove that what is read from there makes the same ids; returns the folder.

    Beside transformers' files a SentencePiece model gets the two that llama.cpp needs, `tokenizer.model` (a copy of
    the base's, of `revision` where it comes from the hub) and `added_tokens.json`. Lesson: 04_merge.
    Raises FileProblem with the first difference when the folder, read again, makes other ids, or stops or pads
    otherwise.
    """
    folder = Path(folder)
    tokenizer.save_pretrained(folder)
    plain_class(folder)
    if sentencepiece(folder):
        source = _sentencepiece_file(tokenizer, revision)
        add_sentencepiece(folder, source.parent if source else None)
    _prove(tokenizer, folder)
    return folder


def plain_class(folder: Path | str) -> None:
    """Let every reader take `tokenizer.json` in `folder` as it is: name the class that does so.

    Works around transformers 5.23.0: `LlamaTokenizer` builds itself anew from the vocabulary when it is loaded and
    `save_pretrained` drops `legacy: true`, so the word after a control token is cut otherwise than in training; and
    neither the class `TokenizersBackend` nor a list of `extra_special_tokens` can be read by transformers 4 (llama.cpp
    0.5.0 holds 4.57.6). The list keeps its content under its older name, which both versions read. Other keys stay, but
    for paths of this machine. Does nothing where there is no such file.
    """
    path = Path(folder) / CONFIG
    if not path.is_file() or not (Path(folder) / "tokenizer.json").is_file():
        return
    config = _json(path)
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        del config["extra_special_tokens"]
        if extra:
            config["additional_special_tokens"] = extra
    config = {key: value for key, value in config.items() if not _is_path(key, value)}
    config["tokenizer_class"] = AS_IS
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def sentencepiece(folder: Path | str) -> bool:
    """Whether `tokenizer.json` in `folder` was made from a SentencePiece model (Mistral, Llama 2, Gemma)."""
    model = _json(Path(folder) / "tokenizer.json").get("model", {})
    return bool(model.get("byte_fallback")) or model.get("type") == "Unigram"


def add_sentencepiece(folder: Path | str, source: Path | str | None) -> None:
    """Write into `folder` what llama.cpp needs of a SentencePiece tokenizer and finds in no `tokenizer.json`.

    `tokenizer.model` is copied from the folder `source` (nothing where it has none), `added_tokens.json` names the
    tokens beyond that model's vocabulary with their ids. Files that are there already stay; other kinds of tokenizer
    are left alone.
    """
    folder = Path(folder)
    if not sentencepiece(folder):
        return
    if source and (Path(source) / SPM).is_file() and not (folder / SPM).is_file():
        shutil.copyfile(Path(source) / SPM, folder / SPM)
    held = _json(folder / "tokenizer.json")
    pieces = held["model"]["vocab"]
    known = set(pieces) if isinstance(pieces, dict) else {piece for piece, _ in pieces}
    later = {t["content"]: t["id"] for t in held.get("added_tokens", []) if t["content"] not in known}
    if later and not (folder / ADDED).is_file():
        (folder / ADDED).write_text(json.dumps(later, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sentencepiece_file(tokenizer, revision: str | None) -> Path | None:
    """`tokenizer.model` of the base: the file that the tokenizer names, beside its folder, or on the hub; else None."""
    from huggingface_hub import hf_hub_download

    base = tokenizer.name_or_path
    named = [vars(tokenizer).get("vocab_file"), tokenizer.init_kwargs.get("vocab_file"), Path(base or ".") / SPM]
    for path in named:
        if path and Path(path).name == SPM and Path(path).is_file():
            return Path(path)
    if not base or Path(base).exists():
        return None
    try:
        return Path(hf_hub_download(base, SPM, revision=revision, token=token()))
    except (OSError, ValueError):  # it has none, or the hub does not answer: training must not be lost for that
        return None


def _prove(tokenizer, folder: Path) -> None:
    """Read `folder` again and compare ids, template, stop and pad token. Raises FileProblem at the first difference."""
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(folder)
    here, there = _facts(tokenizer), _facts(again)
    for name, value in here.items():
        if value != there[name]:
            raise FileProblem(f"{folder}: {name}: {value!r} in training, {there[name]!r} when read. {NEXT}")
    for text in [*PROBES, *([templates.render(tokenizer, TALK, True)] if tokenizer.chat_template else [])]:
        ours, theirs = (t.encode(text, add_special_tokens=False) for t in (tokenizer, again))
        if ours != theirs:
            at = next(i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b)
            shown = [" ".join(tokenizer.convert_ids_to_tokens(ids[at : at + 3])) or "the end" for ids in (ours, theirs)]
            raise FileProblem(f"{folder}: {text!r}, id {at + 1}: {shown[0]} in training, {shown[1]} when read. {NEXT}")


def _facts(tokenizer) -> dict:
    """What a reader needs beside the ids: template, ends, and the tokens that are hidden from an answer's text."""
    return {
        "chat template": tokenizer.chat_template,
        "stop token": tokenizer.eos_token_id,
        "pad token": tokenizer.pad_token_id,
        "special tokens": sorted(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
    }


def _is_path(key: str, value) -> bool:
    return key.endswith(("_file", "_path", "_dir")) and isinstance(value, str) and Path(value).is_absolute()


def _json(path: Path) -> dict:
    """The object in a JSON file. Raises FileProblem when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileProblem(f"{path}: cannot be read ({error}); copy or write the tokenizer again.") from error
