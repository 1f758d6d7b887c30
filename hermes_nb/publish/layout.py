"""Does a model folder hold what transformers, vLLM and llama.cpp need? Reads headers and configs, no weights.

What vLLM needs was read from its loader, not tried; llama.cpp's converter was run (0.5.0). Lesson: 04_merge.
"""

import json
from itertools import zip_longest
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hermes_nb.errors import FileProblem

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
BYTES = {"64": 8, "32": 4, "16": 2}  # by the end of a type's name; all others take one byte
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def layout_problems(folder: Path | str) -> list[str]:
    """What keeps transformers or vLLM from loading `folder` and stopping as trained, one line each; empty when fine.

    config.json: architectures, the number format of the tensors, no quantization. Weights: every tensor of the index
    in its file and none beside, `total_size` the bytes of the tensors, as many embeddings as the tokenizer has ids.
    Tokenizer: a chat template that ends a turn with its stop token, that token among the ids that end an answer, and
    tokenizer.json cutting text as its class does (`LlamaTokenizer` builds itself anew and loses `legacy` when saved).
    Raises FileProblem when there is no such folder.
    """
    folder, found = folder_of(folder), []
    for check in (_config, _weights, _ending, _cutting):
        try:
            found += check(folder)
        except FileProblem as problem:
            found.append(str(problem))
    return list(dict.fromkeys(found))


def gguf_problems(folder: Path | str) -> list[str]:
    """What makes llama.cpp's converter fail, or write another vocabulary, one line each; empty when fine.

    Two traps, both met with llama.cpp 0.5.0. Its requirements hold transformers at 4.57.6, which reads neither the
    class `TokenizersBackend` nor a list of `extra_special_tokens`. And of a SentencePiece model (Mistral, Llama 2) it
    takes the order of merges from `tokenizer.model` and the tokens that were added later from `added_tokens.json`;
    without the one it cuts words otherwise, without the other `<|im_end|>` is no token.
    Raises FileProblem when the folder, its tokenizer or their configs are missing.
    """
    folder, out = folder_of(folder), []
    config, tokens = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
    if config.get("tokenizer_class") == "TokenizersBackend" or isinstance(config.get("extra_special_tokens"), list):
        out.append(
            "tokenizer_config.json: written by transformers 5, and transformers 4 cannot read it; convert with this "
            "package's Python and `pip install sentencepiece`, not with llama.cpp's requirements.txt."
        )
    model = tokens.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return out
    if not (folder / "tokenizer.model").is_file():
        out.append("tokenizer.model: missing; llama.cpp would cut words otherwise. Copy it from the base's folder.")
    later = [t["content"] for t in tokens.get("added_tokens", []) if t["content"] not in model["vocab"]]
    if later and not (folder / "added_tokens.json").is_file() and not config.get("added_tokens_decoder"):
        out.append(f"added_tokens.json: missing; llama.cpp would not know {', '.join(later)}. Write their ids there.")
    return out


def folder_of(folder: Path | str) -> Path:
    """The folder as a Path. Raises FileProblem when there is none."""
    if not Path(folder).is_dir():
        raise FileProblem(f"{folder}: no such folder; merge a model into it first.")
    return Path(folder)


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises FileProblem when it is missing or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileProblem(f"{path.name}: missing in {path.parent}; merge the model again.") from error
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"{path.name}: no JSON ({error}); merge the model again.") from error
    if not isinstance(found, dict):
        raise FileProblem(f"{path.name}: holds no object; merge the model again.")
    return found


def tokenizer_of(folder: Path | str):
    """The folder's tokenizer with its chat template, as a server loads it. Raises FileProblem without one of them."""
    from transformers import AutoTokenizer

    if not (folder_of(folder) / "tokenizer.json").is_file():
        raise FileProblem(f"tokenizer.json: missing in {folder}; servers read the tokenizer beside the weights.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise FileProblem(f"tokenizer.json: cannot be loaded ({error}); merge the model again.") from error
    if not tokenizer.chat_template:
        raise FileProblem(f"chat_template.jinja: missing in {folder}; a server would refuse messages or invent a form.")
    return tokenizer


def _config(folder: Path) -> list[str]:
    config, out = read_json(folder / "config.json"), []
    if not config.get("architectures"):
        out.append("config.json: no architectures; vLLM cannot choose the model's code. Name the class there.")
    if config.get("quantization_config"):
        out.append("config.json: holds a quantization_config, so plain weights would be read as quantized; remove it.")
    if _dtype(config) not in STORED:
        out.append("config.json: no dtype; say in it which number format the tensors have.")
    return out


def _weights(folder: Path) -> list[str]:
    """Index against files, bytes against total_size, formats and embeddings against the config."""
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            return [f"{SINGLE}: missing, and no {INDEX} either; merge the model again."]
        return _tensors(folder, _header(folder / SINGLE))
    index = read_json(folder / INDEX)
    places, stated = index.get("weight_map") or {}, (index.get("metadata") or {}).get("total_size")
    out = [f"{SINGLE}: lies beside {INDEX}; transformers would read it alone."] if (folder / SINGLE).is_file() else []
    names = sorted(set(places.values()))
    out += [f"{name}: named by {INDEX}, but missing; merge the model again." for name in names if not _in(folder, name)]
    held = {name: _header(folder / name) for name in names if _in(folder, name)}
    out += _few([f"{n} ({f})" for n, f in places.items() if f in held and n not in held[f]], "not in the file named")
    out += _few([f"{n} ({f})" for f in held for n in held[f] if places.get(n) != f], f"in a file, but not in {INDEX}")
    tensors = {n: t for header in held.values() for n, t in header.items()}
    size = sum(_bytes(*tensor) for tensor in tensors.values())
    if len(held) == len(names) and stated != size:
        out.append(f"{INDEX}: total_size is {stated}, the tensors take {size} bytes; write that number.")
    return out + _tensors(folder, tensors)


def _tensors(folder: Path, tensors: dict) -> list[str]:
    """Number formats and embeddings, by the headers, against config and tokenizer."""
    config, out = read_json(folder / "config.json"), []
    stored = {dtype for dtype, _ in tensors.values() if dtype in STORED.values()}
    stated = _dtype(config)
    if stated in STORED and stored != {STORED[stated]}:
        out.append(f"config.json: dtype is {stated}, the tensors are {', '.join(sorted(stored)) or 'of none'}.")
    rows = [shape[0] for name, (_, shape) in tensors.items() if name.endswith("embed_tokens.weight")]
    if rows and config.get("vocab_size") != rows[0]:
        out.append(f"config.json: vocab_size is {config.get('vocab_size')}, the embedding has {rows[0]} rows.")
    highest = max(tokenizer_of(folder).get_vocab().values())
    if rows and highest >= rows[0]:
        out.append(f"tokenizer.json: its highest id is {highest}, the embedding has {rows[0]} rows; the model fails.")
    return out


def _ending(folder: Path) -> list[str]:
    """The stop token: at the end of a turn, and among the ids that end an answer."""
    tokenizer, out = tokenizer_of(folder), []
    stop, end = tokenizer.eos_token, tokenizer.eos_token_id
    if not stop or not tokenizer.apply_chat_template(TALK, tokenize=False).rstrip().endswith(stop):
        out.append(f"chat_template.jinja: an answer does not end with {stop}, so the model would not stop.")
    for name in ("generation_config.json", "config.json"):
        ends = read_json(folder / name).get("eos_token_id")
        if end not in (ends if isinstance(ends, list) else [ends]):
            out.append(f"{name}: eos_token_id is {ends} and lacks {end} ({stop}), so answers would not stop; add it.")
    return out


def _cutting(folder: Path) -> list[str]:
    """Programs in other languages read tokenizer.json alone; transformers 5 builds some classes anew from its parts."""
    from tokenizers import Tokenizer

    tokenizer = tokenizer_of(folder)
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).tokens
    built = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
    if alone == built:
        return []
    at = next(i for i, (a, b) in enumerate(zip_longest(alone, built)) if a != b)
    here, there = (" ".join(tokens[at : at + 3]) for tokens in (built, alone))
    return [
        f"tokenizer_config.json: its class {type(tokenizer).__name__} makes {here} of what is {there} by tokenizer.json"
        " alone; write the class PreTrainedTokenizerFast, which reads tokenizer.json as is."
    ]


def _header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Tensor name to number format and shape, from the header of a safetensors file."""
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise FileProblem(f"{path.name}: damaged ({error}); merge the model again.") from error


def _bytes(dtype: str, shape: list[int]) -> int:
    return prod(shape) * BYTES.get(dtype[-2:], 1)


def _dtype(config: dict) -> str | None:
    """The number format as the config states it: `dtype` since transformers 5, `torch_dtype` before."""
    return config.get("dtype") or config.get("torch_dtype")


def _in(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _few(names: list[str], what: str) -> list[str]:
    """One line for many tensors: the first three and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{', '.join(names[:3])}{more}: {what}; merge the model again."] if names else []
