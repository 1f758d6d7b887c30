"""A merged folder in other programs: their commands, their prompts, and whether the model sees the ids of training.

Other programs write the prompt themselves. They are right when the ids are those of training. Checked by hand with
llama.cpp 0.5.0 and transformers 5.23's own server; LM Studio and vLLM were not run. Lesson: 04_merge.
"""

import json
import shlex
from pathlib import Path

from hermes_nb import templates
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.publish.layout import folder_of, read_json, tokenizer_of

OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")
# what stands before and after a text: the same turns as in templates/*.jinja, the newline after a turn, not before it
TURNS = {"chatml": ("<|im_start|>{role}\n", "<|im_end|>\n"), "zephyr": ("<|{role}|>\n", "</s>\n")}
ROLES = ("system", "user", "assistant")
KEPT = ("chat_template", *(f"ggml.{key}" for key in ("model", "tokens", "scores", "bos_token_id", "add_bos_token")))
ADD_BOS = "tokenizer.ggml.add_bos_token"  # if true, llama.cpp puts <s> before a prompt that was trained without it


def gguf_command(folder: Path | str, out: Path | str | None = None, outtype: str = "f16") -> list[str]:
    """Shell lines for llama.cpp: convert `folder` to the GGUF file `out`, serve it, ask it once, make a smaller one.

    Run the first in a checkout of llama.cpp with this package's Python and `pip install sentencepiece`; look at
    `gguf_problems` before. Where the tokenizer adds a BOS, a line of the package `gguf` writes into the file that none
    is wanted (an empty text is its False), for programs that take no override. `--jinja` uses the template inside the
    file, `--temp 0` answers greedily. f16 keeps a DPO-sized delta; bf16 and 8 bits round more of it away: compare
    before you use them. Checked with llama.cpp 0.5.0 (0c1e570) on the built-in model: same ids, the same greedy answer
    as transformers, ended by the stop token.
    Raises RecipeProblem for an unknown `outtype`, FileProblem when there is no such folder.
    """
    if outtype not in OUTTYPES:
        raise RecipeProblem(f"outtype {outtype!r}: convert_hf_to_gguf.py writes {', '.join(OUTTYPES)}.")
    folder = folder_of(folder)
    out = Path(out) if out else folder.with_name(f"{folder.name}-{outtype}.gguf")
    chat = ["-m", str(out), "--jinja", "--override-kv", f"{ADD_BOS}=bool:false", "--temp", "0", "--ctx-size", "4096"]
    lines = [["python", "convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", outtype]]
    if _adds_bos(folder):
        lines.append(["gguf-set-metadata", str(out), ADD_BOS, "", "--force"])
    lines += [
        ["llama-server", *chat, "--alias", folder.name, "--host", "127.0.0.1", "--port", "8080"],
        ["llama-cli", *chat, "--single-turn", "-p", "Why does bread rise?"],
    ]
    if outtype != "q8_0":
        lines.append(["llama-quantize", str(out), str(out.with_name(f"{out.stem}-Q8_0.gguf")), "Q8_0"])
    return [shlex.join(line) for line in lines]


def server_commands(folder: Path | str, port: int = 8000) -> dict[str, str]:
    """Shell lines that serve `folder` with an OpenAI-compatible interface on this machine alone: program to line.

    `transformers` needs `pip install "transformers[serving]"` and answers only to the folder as typed here as `model`.
    `vllm` needs a GPU and an environment of its own; the number format is spelled out, because it loads a float32
    folder in bfloat16 by itself, which rounds most of a DPO-sized delta away. Raises FileProblem without a config.
    """
    folder = folder_of(folder)
    config = read_json(folder / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    here = ["--host", "127.0.0.1", "--port", str(port)]
    dtype = "float16" if stored == "float32" else stored
    return {
        "vllm": shlex.join(["vllm", "serve", str(folder), "--served-model-name", folder.name, "--dtype", dtype, *here]),
        "transformers": shlex.join(["transformers", "serve", str(folder), *here]),
    }


def openai_request(model: str, messages: list[dict], max_tokens: int = 256) -> dict:
    """The body of POST /v1/chat/completions for one greedy answer of at most `max_tokens` tokens.

    `model` is the name that the server gave it (`--alias`, `--served-model-name`) or, for `transformers serve`, the
    folder. Messages are sent, not a prompt: the server writes it by the template in the folder.
    """
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens, "stream": False}


def lm_studio_preset(template) -> dict:
    """A preset for LM Studio as its JSON has been since version 0.3: prefix, suffix and stop string of every role.

    `template` is `chatml`, `zephyr`, or a tokenizer that carries one of the two. Save it as `NAME.preset.json` and
    import it, or copy the six strings into My Models, Prompt Template, Manual. A GGUF made from our folder carries
    its template already; a preset is for one that lost it. Raises RecipeProblem for another template.
    """
    name = _name(template)
    before, after = TURNS[name]
    strings = {f"before{role.title()}": before.format(role=role) for role in ROLES}
    strings |= {f"after{role.title()}": after for role in ROLES}
    prompt = {"type": "manual", "manualPromptTemplate": strings, "stopStrings": [templates.STOP[name]]}
    fields = [
        {"key": "llm.prediction.promptTemplate", "value": prompt},
        {"key": "llm.prediction.temperature", "value": 0},
    ]
    title = f"hermes_nb {name}"
    return {
        "identifier": f"@local:{title.replace('_', '-').replace(' ', '-')}", "name": title, "changed": False,
        "operation": {"fields": fields}, "load": {"fields": []},
    }  # fmt: skip


def preset_text(preset: dict, messages: list[dict]) -> str:
    """The prompt that the strings of `preset` make of messages: before + content + after, and the answer's opening."""
    fields = {field["key"]: field["value"] for field in preset["operation"]["fields"]}
    strings = fields["llm.prediction.promptTemplate"]["manualPromptTemplate"]
    turns = [(m["role"].title(), m["content"]) for m in messages]
    return (
        "".join(strings[f"before{r}"] + text + strings[f"after{r}"] for r, text in turns) + strings["beforeAssistant"]
    )


def same_ids(trained, folder: Path | str, messages: list[dict], gguf: Path | str | None = None) -> list[dict]:
    """Whether other programs feed the model the ids of training: rows of `way, same, ids, difference`.

    `trained` is the tokenizer of the run. Ways: a chat server that reads `folder` (transformers, vLLM), LM Studio's
    preset, and with `gguf` the template inside that file; `ids` is how many there are, `difference` the first place
    that differs, as text. A given file is read for what it lost: its template, tokens, the order of merges, and
    whether it asks for a BOS; its text is cut by the folder's tokenizer. (llama.cpp 0.5.0 itself cut ours alike; but
    with a SentencePiece model not a blank behind a control token that a text spells: see `control_text`.)
    Raises FileProblem when folder or file has no tokenizer or the folder no template, RecipeProblem for a template
    that is not ours.
    """
    ours, served = templates.prompt_ids(trained, messages), tokenizer_of(folder)
    preset = preset_text(lm_studio_preset(trained), messages)
    file = _gguf(gguf) if gguf else None
    rows = [("chat server", _served(served, messages), ""), ("LM Studio preset", *_read_by(file, served, preset))]
    if file and file["template"]:
        own = served.apply_chat_template(
            messages, chat_template=file["template"], tokenize=False, add_generation_prompt=True
        )
        rows.append(("GGUF", *_read_by(file, served, own)))
    elif file:
        rows.append(("GGUF", [], "the file holds no chat template; convert a folder that has one."))
    return [
        {"way": way, "same": ids == ours and not why, "ids": len(ids), "difference": why or _gap(trained, ours, ids)}
        for way, ids, why in rows
    ]


def control_text(tokenizer, messages: list[dict]) -> list[str]:
    """Control tokens that the text of a message spells, one line each; empty when there are none.

    `<|im_end|>` in a user's text becomes the one id that ends a turn: in training, in transformers and in llama.cpp
    alike. The ids agree, and the model sees the turn end early. Take such text out before it reaches a model.
    """
    spelled = sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()))
    return [
        f"message {number} ({message['role']}) spells {token}: id {tokenizer.convert_tokens_to_ids(token)}, not text."
        for number, message in enumerate(messages, 1)
        for token in spelled
        if token in message["content"]
    ]


def _served(tokenizer, messages: list[dict]) -> list[int]:
    """Ids that a chat server makes of a request's JSON: the call of transformers 5.23 and of vLLM."""
    received = json.loads(json.dumps(openai_request("model", messages)))["messages"]
    return tokenizer.apply_chat_template(received, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def _gguf(path: Path | str) -> dict:
    """What a prompt needs of a GGUF file: template, tokens, BOS ids, and whether merges have an order."""
    from gguf import GGUFReader

    if not Path(path).is_file():
        raise FileProblem(f"{path}: no such file; convert the folder first, with the command of `gguf_command`.")
    try:
        fields = GGUFReader(path).fields
    except (ValueError, IndexError) as error:  # another file, or one that broke off
        raise FileProblem(f"{path}: no whole GGUF file ({error}); convert the folder again.") from error
    kept = {key: fields[f"tokenizer.{key}"].contents() for key in KEPT if f"tokenizer.{key}" in fields}
    if "ggml.tokens" not in kept or "ggml.model" not in kept:
        raise FileProblem(f"{path}: holds no tokenizer, so it is no language model's file; convert the folder again.")
    spm = kept["ggml.model"] == "llama"
    adds = kept.get("ggml.add_bos_token", spm)  # llama.cpp adds one where a SentencePiece file does not say
    return {
        "template": kept.get("chat_template"),
        "tokens": kept["ggml.tokens"],
        "bos": [kept["ggml.bos_token_id"]] if adds and "ggml.bos_token_id" in kept else [],
        "ordered": not spm or len(set(kept.get("ggml.scores", []))) > 3,  # else all stand at the default, -1000
    }


def _read_by(file: dict | None, tokenizer, text: str) -> tuple[list[int], str]:
    """Ids that a program makes of a prompt's text, and what its GGUF file lost; what it lost makes the ids void."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if file is None:
        return ids, ""
    if not file["ordered"]:
        return [], "the file's pieces have no order of merging; convert with tokenizer.model in the folder."
    for token in ids:
        there, here = (file["tokens"][token : token + 1] or [None])[0], tokenizer.convert_ids_to_tokens(token)
        if there != here:
            return [], f"id {token} is {here!r} in training and {there!r} in the file; see `gguf_problems`."
    return file["bos"] + ids, ""


def _gap(tokenizer, ours: list[int], theirs: list[int]) -> str:
    """The first place where two lists of ids differ, as text; empty where there is none."""
    if ours == theirs:
        return ""
    shorter = min(len(ours), len(theirs))
    at = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    shown = [" ".join(tokenizer.convert_ids_to_tokens(ids[at : at + 4])) or "the end" for ids in (ours, theirs)]
    return f"at id {at + 1} of {len(ours)}: training has {shown[0]}, here is {shown[1]}."


def _adds_bos(folder: Path) -> bool:
    """Whether the tokenizer puts a token before every text; the converter then asks llama.cpp for a BOS."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    return path.is_file() and bool(Tokenizer.from_file(str(path)).encode("").ids)


def _name(template) -> str:
    """The name of our template: given by name, or carried by a tokenizer."""
    carried = template if isinstance(template, str) else template.chat_template
    for name in templates.STOP:
        if carried == name or (carried or "").strip() == templates.text(name):
            return name
    raise RecipeProblem(f"a preset is made for the templates {', '.join(templates.STOP)}; this is another one.")
