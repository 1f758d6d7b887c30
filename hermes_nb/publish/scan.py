"""What a folder would publish, and what speaks against it: an allow list of files, and a scan of what they say.

Lesson: 04_merge.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from hermes_nb.errors import FileProblem

KEYS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a secret key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})"),
    "a Slack token": re.compile(r"\bxox[abp]-[A-Za-z0-9-]{10,}"),
    "a name and password in an address": re.compile(r"://[^\s/:@\"']+:[^\s/@\"']+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
# after a drive's backslash, n, r and t are line ends and tabs of a template ("Q:\n") unless another folder follows
PATHS = {
    "a path of a machine": re.compile(
        r"(?<![\w/.:-])(?:(?:file://)?/(?:home|root|Users|content|kaggle|tmp|mnt|workspace|scratch|data|Volumes|var/folders"
        r"|opt|srv|media|dbfs|private|teamspace)/"
        r"|[A-Za-z]:\\{1,2}(?:(?![nrt])\w|\w[\w.-]*\\{1,2}(?![nrt])\w))"
    )
}
# of a JSON file, at any depth: keys whose value names a model, and keys whose value nobody else may have
NAMED = ("base_model_name_or_path", "_name_or_path", "name_or_path")
SECRET = ("token", "hub_token", "hf_token", "access_token", "password", "secret", "api_key")
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.A)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
WEIGHTS = ".safetensors"
TEXTS = (".jinja",)
JSONS = (
    "config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens", "vocab",
    "model.safetensors.index", "adapter_config", "merge", "preprocessor_config", "processor_config",
)  # fmt: skip
NAMES = (
    "README.md",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    *(f"{n}.json" for n in JSONS),
)
BINARY = ("tokenizer.model",)  # of SentencePiece; names the folders of those who made it, so no paths are looked for
VOCABULARY = ("vocab.json", "vocab.txt", "merges.txt")  # pieces of everything, some of which look like paths
CARD = "README.md"
LARGE = 10_000_000  # bytes; what is larger and may not leave is not read


def plan(folder: Path | str) -> list[dict]:
    """Dry run: every file below `folder` that would be published, as rows of `file` and `mb`; nothing is sent.

    Hidden files and folders are left out. Raises FileProblem when there is no such folder.
    """
    return [{"file": name, "mb": round(path.stat().st_size / 1e6, 3)} for name, path in files(folder)]


def findings(folder: Path | str, token: str | None = None) -> list[str]:
    """What speaks against publishing `folder`, one line each, without repeating a secret; empty when it is clean.

    Only safetensors, JSON, tokenizer files and the card may leave; a pickle runs code when loaded (and in TRL's lies
    the token that it was given). Weights must be whole safetensors, JSON must be readable, a link must stay inside.
    Every text, and the header of every safetensors file, is searched for tokens, keys and local paths, and for `token`
    itself, where given. Raises FileProblem when there is no such folder.
    """
    inside = [(name, path) for name, path in files(folder) if not leads_out(path, Path(folder)) and not unwanted(name)]
    return unfit(folder, token) + [line for name, path in inside for line in _read(name, path, token)]


def unfit(folder: Path | str, token: str | None = None) -> list[str]:
    """Of what speaks against publishing `folder`, the files that may not leave at all, and keys in them."""
    folder, out = Path(folder), []
    for name, path in _seen(folder):
        if leads_out(path, folder):
            out.append(f"{name}: a link that leads out of the folder; put the file itself there.")
        elif path.is_file() and unwanted(name):
            out += unwanted(name) + _glance(name, path, token)
    return out


def files(folder: Path | str) -> list[tuple[str, Path]]:
    """Name and path of every file below `folder` but the hidden ones, in order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileProblem(f"{folder}: no such folder; merge a model into it first.")
    return [(name, path) for name, path in _seen(folder) if path.is_file()]


def _seen(folder: Path) -> list[tuple[str, Path]]:
    inside = [(path.relative_to(folder), path) for path in sorted(folder.rglob("*"))]
    return [(name.as_posix(), path) for name, path in inside if not any(part.startswith(".") for part in name.parts)]


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path` is a link to something outside `folder`, or to what is hidden in it."""
    if not path.is_symlink():
        return False
    there, here = path.resolve(), folder.resolve()
    return not there.is_relative_to(here) or any(part.startswith(".") for part in there.relative_to(here).parts)


def unwanted(name: str) -> list[str]:
    """Why a file of this name may not leave; empty when it may."""
    here, suffix = PurePosixPath(name).name, PurePosixPath(name).suffix
    if suffix.lower() in PICKLES:
        return [f"{name}: a pickle; it runs code when loaded and may hold a token. Leave it out."]
    if here in NAMES or suffix in (WEIGHTS, *TEXTS):
        return []
    return [f"{name}: no file of a model (weights, configs, tokenizer, card). Leave it out."]


def _glance(name: str, path: Path, token: str | None) -> list[str]:
    """A key in a file that may not leave is still worth knowing: it may have left before."""
    if path.stat().st_size > LARGE:
        return []
    content = path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    return _found(name, text, _patterns(token, KEYS), "" if b"\0" in content else text)


def _read(name: str, path: Path, token: str | None) -> list[str]:
    """What is wrong inside a file that may leave by its name."""
    if path.suffix == WEIGHTS:
        return _weights(name, path, token)
    if path.name in BINARY:
        return _found(name, path.read_bytes().decode("latin-1"), _patterns(token, KEYS), "")
    # a wrong byte is no reason to stop looking
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.name in VOCABULARY:
        return _found(name, text, _patterns(token, KEYS), text) + _unreadable(name, text)
    return _json(name, text, token) if path.suffix == ".json" else _found(name, text, _patterns(token), text)


def _unreadable(name: str, text: str) -> list[str]:
    try:
        if name.endswith(".json"):
            json.loads(text)
    except (ValueError, RecursionError):
        return [f"{name}: not readable as JSON. Write it anew."]
    return []


def _json(name: str, text: str, token: str | None) -> list[str]:
    """A JSON file as its readers see it, each string unescaped; a vocabulary inside is searched for keys alone."""
    broken = _unreadable(name, text)
    if broken:
        return _found(name, text, _patterns(token), text) + broken
    data = json.loads(text)
    if PurePosixPath(name).name == "tokenizer.json" and isinstance(data, dict) and isinstance(data.get("model"), dict):
        data["model"] = {k: v for k, v in data["model"].items() if k not in ("vocab", "merges")}
    out = [line for word in _strings(data) for line in _found(name, word, _patterns(token), text)]
    out += [line for key, word in _pairs(data) for line in _field(name, key, word)]
    # one line for each kind; what lies in the vocabulary, too
    out += _found(name, text, _patterns(token, KEYS), text)
    return list({line.rpartition(": ")[2]: line for line in reversed(out)}.values())[::-1]


def _strings(data) -> Iterator[str]:
    """Every string in plain data, keys too."""
    for key, value in _pairs(data):
        yield from (part for part in (key, value) if isinstance(part, str))


def _pairs(data) -> Iterator[tuple]:
    """Every key (in a list: None) and its value; without recursion, since a file may be nested as deep as it likes."""
    left = [(None, data)]
    while left:
        key, here = left.pop()
        yield key, here
        if isinstance(here, dict):
            left += [*reversed(here.items())]
        elif isinstance(here, list):
            left += [(None, one) for one in reversed(here)]


def _field(name: str, key, word) -> list[str]:
    """What a value says that its key does not allow."""
    if not isinstance(word, str) or not word:
        return []
    if key in NAMED and not HUB_NAME.fullmatch(word):
        return [f"{name}, {key}: a path of a machine."]
    if str(key).lower() in SECRET:
        return [f"{name}, {key}: a secret."]
    return []


def _weights(name: str, path: Path, token: str | None) -> list[str]:
    """A safetensors file must be whole; its header is text that somebody wrote."""
    try:
        with safe_open(path, "np") as file:
            words = [*file.keys(), *(part for pair in (file.metadata() or {}).items() for part in pair)]
    except SafetensorError:
        return [f"{name}: not a whole safetensors file. Write it anew."]
    return _found(f"{name}, header", "\n".join(words), _patterns(token), "")


def _patterns(token: str | None, known: dict | None = None) -> dict:
    """What is looked for: keys and paths, or `known`, and the token in use, whatever its shape."""
    known = KEYS | PATHS if known is None else known
    return known | {"the token in use": re.compile(re.escape(token))} if token else known


def _found(name: str, text: str, patterns: dict, whole: str) -> list[str]:
    """One line for each kind of secret in `text`: where it first stands in `whole`, never what it is."""
    out = []
    for what, pattern in patterns.items():
        found = pattern.search(text)
        if found:
            # a string of a JSON file stands there with its escapes
            begin = 0 if text is whole else whole.find(json.dumps(text, ensure_ascii=False))
            end = begin + (found.end() if text is whole else 0)
            place = f", line {whole.count(chr(10), 0, end) + 1}" if whole and begin >= 0 else ""
            out.append(f"{name}{place}: {what}.")
    return out
