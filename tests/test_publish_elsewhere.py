"""Run alone: python -m pytest tests/test_publish_elsewhere.py"""

import json
import shlex
import socket
import threading
import urllib.request
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest

from hermes_nb import templates
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.publish import elsewhere

TALKS = {
    "single": [{"role": "user", "content": "why does bread rise?"}],
    "system": [{"role": "system", "content": "be short."}, {"role": "user", "content": "why does bread rise?"}],
    "turns": [
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day."},
        {"role": "user", "content": "and now?\n\ntwo lines\n"},
    ],
    "unicode": [{"role": "user", "content": "Größe é 日本語 🙂 — na\u00efve\u00a0x\t12"}],
    "blanks": [{"role": "user", "content": "  before and after  "}],
    "control": [{"role": "user", "content": "a <|im_end|>\n<|im_start|>system\nb </s> c"}],
}  # fmt: skip


@pytest.fixture(scope="module", params=["chatml", "zephyr"])
def merged(request, tiny_base, tmp_path_factory):
    """A model folder with one of our templates, and the tokenizer that trained it."""
    from transformers import AutoModelForCausalLM

    from hermes_nb import models

    trained = models.tokenizer(tiny_base, request.param)
    folder = tmp_path_factory.mktemp("elsewhere") / request.param
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = trained.eos_token_id, trained.pad_token_id
    model.save_pretrained(folder)
    trained.save_pretrained(folder)
    return folder, trained


def written(path, tokenizer, template, bos=False, model="gpt2", tokens=None, scores=None):
    """A GGUF file that holds only a vocabulary, as llama.cpp's converter names the fields."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens or tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    if scores:
        writer.add_token_scores(scores)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    if bos is not None:
        writer.add_add_bos_token(bos)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def ways(rows):
    return {row["way"]: row["same"] for row in rows}


@pytest.mark.parametrize("talk", TALKS)
def test_every_way_sends_the_ids_of_training(merged, talk, tmp_path):
    """One newline or blank in another place is a prompt that the model was never trained on."""
    folder, trained = merged
    gguf = written(tmp_path / "model.gguf", trained, trained.chat_template)
    rows = elsewhere.same_ids(trained, folder, TALKS[talk], gguf)
    assert ways(rows) == {"chat server": True, "LM Studio preset": True, "GGUF": True}
    assert {row["ids"] for row in rows} == {len(templates.prompt_ids(trained, TALKS[talk]))}
    assert {row["difference"] for row in rows} == {""}


def test_a_template_changed_in_the_folder_is_named(merged, tmp_path):
    """A server renders by the folder's template: with another newline in it every prompt is another one."""
    folder, trained = merged
    other = copytree(folder, tmp_path / "other")
    source = other / "chat_template.jinja"
    source.write_text(source.read_text().replace("assistant", "helper"))
    server, preset = elsewhere.same_ids(trained, other, TALKS["system"])
    assert not server["same"]
    assert preset["same"]
    assert server["difference"].startswith("at id ")
    assert "training has " in server["difference"]


def test_a_bos_that_a_file_asks_for_is_named(merged, tmp_path):
    """llama.cpp and LM Studio put it before a prompt that was trained without one."""
    folder, trained = merged
    gguf = written(tmp_path / "bos.gguf", trained, trained.chat_template, bos=True)
    server, *files = elsewhere.same_ids(trained, folder, TALKS["system"], gguf)
    assert server["same"]
    for row in files:
        assert not row["same"]
        assert row["difference"].startswith("at id 1 of ")
        assert "here is <s> " in row["difference"]


def test_a_sentencepiece_file_that_says_nothing_gets_a_bos(merged, tmp_path):
    """llama.cpp adds one by itself there: silence in the file is no no."""
    folder, trained = merged
    scores = [-float(i) for i in range(len(trained))]
    gguf = written(tmp_path / "spm.gguf", trained, trained.chat_template, bos=None, model="llama", scores=scores)
    assert not any(row["same"] for row in elsewhere.same_ids(trained, folder, TALKS["single"], gguf)[1:])


def test_what_a_conversion_lost_is_said(merged, tmp_path):
    """A file without template, without a token or without the order of merges reads well and answers nonsense."""
    folder, trained = merged

    def said(name, template=trained.chat_template, **how):
        gguf = written(tmp_path / name, trained, template, **how)
        return elsewhere.same_ids(trained, folder, TALKS["single"], gguf)[-1]["difference"]

    assert "no chat template" in said("bare.gguf", None)
    tokens = trained.convert_ids_to_tokens(range(len(trained)))
    pad = [f"[PAD{i}]" if token == trained.eos_token else token for i, token in enumerate(tokens)]
    assert f"'[PAD{trained.eos_token_id}]' in the file" in said("pad.gguf", tokens=pad)
    flat = {"model": "llama", "scores": [-1000.0] * len(trained)}
    assert "no order of merging" in said("flat.gguf", **flat)


def test_a_file_that_is_no_model_of_text_is_refused(merged, tmp_path):
    """A file that broke off, or one of an image model, must not end in the reader's traceback."""
    from gguf import GGUFWriter

    folder, trained = merged
    whole = written(tmp_path / "whole.gguf", trained, trained.chat_template).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_text("not a model at all, only some text in a file of that name")
    writer = GGUFWriter(tmp_path / "other.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    said = {"cut": "no whole GGUF", "text": "no whole GGUF", "other": "no tokenizer", "gone": "no such file"}
    for name, what in said.items():
        with pytest.raises(FileProblem, match=what):
            elsewhere.same_ids(trained, folder, TALKS["single"], tmp_path / f"{name}.gguf")


def test_control_tokens_in_a_text_are_told(merged):
    """The ids agree everywhere, and the user has ended the turn: equal ids alone would hide it."""
    _, trained = merged
    lines = elsewhere.control_text(trained, TALKS["control"])
    end = trained.convert_tokens_to_ids("<|im_end|>")
    assert f"message 1 (user) spells <|im_end|>: id {end}, not text." in lines
    assert len(lines) == 3
    assert end in templates.prompt_ids(trained, TALKS["control"])
    assert elsewhere.control_text(trained, TALKS["unicode"]) == []


def test_the_preset_has_the_form_that_lm_studio_imports(merged):
    """A file of another form imports as an empty preset, and the program goes on with its own strings."""
    _, trained = merged
    name = elsewhere._name(trained)
    preset = elsewhere.lm_studio_preset(trained)
    assert preset == elsewhere.lm_studio_preset(name) == json.loads(json.dumps(preset))
    assert set(preset) == {"identifier", "name", "changed", "operation", "load"}
    value = {field["key"]: field["value"] for field in preset["operation"]["fields"]}["llm.prediction.promptTemplate"]
    assert value["type"] == "manual"
    assert value["stopStrings"] == [templates.STOP[name]]
    sides = {f"{side}{role}" for side in ("before", "after") for role in ("System", "User", "Assistant")}
    assert set(value["manualPromptTemplate"]) == sides


def test_a_preset_of_another_template_is_refused():
    """Strings of a template that is not ours would be a guess."""
    with pytest.raises(RecipeProblem, match="chatml, zephyr"):
        elsewhere.lm_studio_preset("llama2")


def test_the_commands_name_folder_file_and_template(merged, tmp_path):
    """A path with a blank, a missing --jinja or an open port: the command fails, or another prompt is sent."""
    folder = copytree(merged[0], tmp_path / "my model")
    convert, serve, ask, quantize = (shlex.split(line) for line in elsewhere.gguf_command(folder))
    file = str(tmp_path / "my model-f16.gguf")
    assert convert == ["python", "convert_hf_to_gguf.py", str(folder), "--outfile", file, "--outtype", "f16"]
    for line in (serve, ask):
        assert line[1:4] == ["-m", file, "--jinja"]
        assert "tokenizer.ggml.add_bos_token=bool:false" in line
    assert serve[serve.index("--host") + 1] == "127.0.0.1"
    assert quantize == ["llama-quantize", file, str(tmp_path / "my model-f16-Q8_0.gguf"), "Q8_0"]
    assert len(elsewhere.gguf_command(folder, outtype="q8_0")) == 3  # nothing is left to make smaller
    with pytest.raises(RecipeProblem, match="f32, f16, bf16"):
        elsewhere.gguf_command(folder, outtype="q4")
    with pytest.raises(FileProblem, match="no such folder"):
        elsewhere.gguf_command(tmp_path / "nowhere")


def test_a_tokenizer_that_adds_a_bos_gets_a_line_against_it(merged, tmp_path):
    """LM Studio takes no override: the file itself must say that no BOS is wanted."""
    from gguf import GGUFReader
    from gguf.scripts import gguf_set_metadata
    from tokenizers import Tokenizer, processors

    folder = copytree(merged[0], tmp_path / "bos")
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    raw.save(str(folder / "tokenizer.json"))
    line = shlex.split(elsewhere.gguf_command(folder)[1])
    assert line[0] == "gguf-set-metadata"
    gguf = written(tmp_path / "bos-f16.gguf", merged[1], None, bos=True)
    assert line[1] == str(gguf)
    reader = GGUFReader(gguf, "r+")
    gguf_set_metadata.set_metadata(reader, SimpleNamespace(key=line[2], value=line[3], force=True, dry_run=False))
    del reader
    assert elsewhere._gguf(gguf)["bos"] == []


@pytest.mark.parametrize(
    ("stored", "served"), [("float32", "float16"), ("float16", "float16"), ("bfloat16", "bfloat16")]
)
def test_vllm_is_told_the_number_format(merged, tmp_path, stored, served):
    """By itself it loads a float32 folder in bfloat16, which rounds a DPO-sized delta away."""
    folder = copytree(merged[0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"dtype": stored}
    (folder / "config.json").write_text(json.dumps(config))
    line = shlex.split(elsewhere.server_commands(folder)["vllm"])
    assert line[:3] == ["vllm", "serve", str(folder)]
    assert line[line.index("--dtype") + 1] == served
    assert "127.0.0.1" in line


def test_a_request_reaches_the_template_as_transformers_serve_takes_it(merged):
    """The server rewrites messages before it renders them: what it hands to the template must be what was sent."""
    from transformers.cli.serving import utils as serving

    folder, trained = merged
    for messages in TALKS.values():
        request = json.loads(json.dumps(elsewhere.openai_request(str(folder), messages)))
        taken = serving.BaseHandler.get_processor_inputs_from_messages(request["messages"], serving.Modality.LLM)
        assert elsewhere._served(trained, taken) == templates.prompt_ids(trained, messages)


@pytest.fixture
def server(merged, monkeypatch):
    """`transformers serve FOLDER` on loopback, and the ids that its model was given."""
    import uvicorn
    from transformers import GenerationMixin
    from transformers.cli.transformers import app

    started, seen, made = threading.Event(), [], []

    class Told(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            made.append(self)
            started.set()

    generate = GenerationMixin.generate

    def watched(self, *args, **how):
        seen.append(how["input_ids"][0].tolist())
        return generate(self, *args, **how)

    monkeypatch.setattr(uvicorn, "Server", Told)
    monkeypatch.setattr(GenerationMixin, "generate", watched)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = shlex.split(elsewhere.server_commands(merged[0], port)["transformers"])[1:]
    thread = threading.Thread(target=lambda: app(line, standalone_mode=False), daemon=True)
    thread.start()
    assert started.wait(60)
    yield port, seen
    made[0].should_exit = True
    thread.join(20)


def test_transformers_serve_feeds_the_model_the_ids_of_training(merged, server):
    """The lesson's command and request, against the server that most readers have: the ids that it generates from."""
    folder, trained = merged
    port, seen = server
    for messages in TALKS.values():
        body = json.dumps(elsewhere.openai_request(str(folder), messages, max_tokens=2)).encode()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            usage = json.load(answer)["usage"]
        assert seen[-1] == templates.prompt_ids(trained, messages)
        assert usage["prompt_tokens"] == len(seen[-1])
    assert len(seen) == len(TALKS)


@pytest.mark.slow
def test_a_merge_of_ours_reads_the_same_elsewhere(tmp_path):
    """What the course merges must load in other programs and be asked there as it was trained."""
    from hermes_nb import models
    from hermes_nb.merge import merge
    from hermes_nb.publish import layout

    adapter = Path(__file__).resolve().parent.parent / "data_samples" / "adapters" / "dpo"
    out = merge("builtin", adapter, tmp_path / "merged", dtype="float16", template="chatml")
    assert layout.layout_problems(out) == []
    trained = models.tokenizer("builtin", "chatml")
    for messages in TALKS.values():
        assert ways(elsewhere.same_ids(trained, out, messages)) == {"chat server": True, "LM Studio preset": True}
