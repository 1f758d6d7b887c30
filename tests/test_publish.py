"""Run alone: python -m pytest tests/test_publish.py"""

import dataclasses
import json
import shutil

import mistune
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from safetensors.numpy import save_file
from test_publish_push import made_model

from hermes_nb import evaluate, models, publish, recipes, runs, templates
from hermes_nb.errors import FileProblem, RecipeProblem
from hermes_nb.generate import Answer

MERGED = {"kl": 9.5e-4, "top1": 0.976, "tokens": 871, "kl_without_adapter": 1.45, "dtype": "float32"}
DIGEST = "ab" * 32
SAMPLED = evaluate.summary([Answer("Short answer: x", True, 3)])


@pytest.fixture(scope="module")
def small_model(tiny_base, tmp_path_factory):
    """Adapter and merged model, made once."""
    return made_model(tiny_base, tmp_path_factory.mktemp("small"))


@pytest.fixture
def out(tmp_path):
    """A run directory with SFT and DPO trained, at scale tiny."""
    recipe = recipes.load("course", "tiny")
    here = "/home/" + "someone/secret/pairs.jsonl"
    dpo = dataclasses.replace(recipe.dpo, train=(recipes.Source("orca_dpo_pairs", here),))
    runs.write_text(tmp_path / "recipe.yaml", yaml.safe_dump(dataclasses.replace(recipe, dpo=dpo).to_dict()))
    stages = {"sft": {"metrics": {"steps": 40}}, "dpo": {"metrics": {"steps": 20}}}
    runs.write_json(
        tmp_path / "run.json", {"stages": stages, "chip": "a chip", "dtype": "float32", "versions": {"torch": "2.13.0"}}
    )
    return tmp_path


def change(out, how):
    """Change the recipe of a run directory."""
    recipe = runs.read_yaml(out / "recipe.yaml")
    how(recipe)
    runs.write_text(out / "recipe.yaml", yaml.safe_dump(recipe))


def reported(out, merge=MERGED, name="merge"):
    """The run's report."""
    (out / "reports").mkdir(exist_ok=True)
    runs.write_json(out / "reports" / f"{name}.json", {"metrics": merge})
    return out


def recorded(out, **values):
    """A folder `merged` with the record of a merge."""
    (out / "merged").mkdir(exist_ok=True)
    told = {
        "base": "builtin", "onto": "dequantized", "dtype": "float32", "trained_in": "bfloat16", "parameters": 2_000,
        "bytes": 8_000, "adapters": [{"name": "dpo", "sha256": DIGEST}],
    }  # fmt: skip
    runs.write_json(out / "merged" / "merge.json", told | values)
    return out


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_was_done_and_measured(out):
    """A card without base, data, settings, figures with n and limits tells nobody what the model is."""
    text = publish.card(reported(out))
    assert head(text) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "base_model_relation": "finetune",
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["sft", "dpo", "qlora", "hermes_nb"],
    }  # fmt: skip
    lora = recipes.load("course", "tiny").lora
    settings = ("beta 0.1", "40 steps", f"LoRA r {lora.r}", "seed 0")
    for part in (*settings, "n = 871", "97.6%", "pairs.jsonl", "## Limits", "torch 2.13"):
        assert part in text, part
    assert "not measured in this run" in text
    stops = {"stops": evaluate.rate([True] * 19 + [False])}
    assert "95% (76% to 99%, 95 % interval), n = 20" in publish.card(reported(out, MERGED | stops))


def test_the_card_shows_the_evaluation_with_its_n(out):
    """Rates without n and interval are an opinion."""
    sampled = evaluate.summary([Answer("Short answer: x", True, 3), Answer("Rain!", False, 3)])
    reported(reported(out), {"dpo": {"sampled": sampled}}, "evaluate")
    text = publish.card(out)
    assert "| dpo | 50% (9% to 91%)" in text
    assert "on 2 answers" in text
    assert "not measured" not in text
    assert "n = 871" in text


def test_the_card_holds_nothing_of_this_machine(out):
    """A path names a person; the card itself must pass the scan that it is published under."""
    folder = out / "model"
    folder.mkdir()
    (folder / "README.md").write_text(publish.card(reported(out)))
    assert "someone" not in publish.card(out)
    assert publish.findings(folder) == []


def test_the_card_does_not_claim_stages_that_were_not_trained_here(out):
    """With shipped adapters the recipe's settings are not what made them."""
    runs.write_json(out / "run.json", {"stages": {}, "chip": None, "dtype": None, "versions": None})
    text = publish.card(out)
    assert text.count("not trained in this run") == 2
    assert "beta" not in text


def test_an_unknown_base_has_no_made_up_licence(out):
    """A licence is read, not guessed; a base in a folder is named without its path, and not where the hub reads names.

    The hub refuses a card whose base_model it does not know.
    """
    bases = (("/data/models/mine", "mine"), ("some/model", "some/model"), ("C:\\models\\mine", "mine"))
    for base, named in bases:
        hub = base if base == named else None
        change(out, lambda recipe, base=base: recipe["model"].update(base=base))
        text = publish.card(out)
        assert (head(text).get("base_model"), head(text).get("license")) == (hub, None)
        assert ("base_model_relation" in head(text)) == bool(hub)
        assert f"- base: `{named}`" in text
        assert "look it up" in text


def test_the_plan_lists_every_file_with_its_size(tmp_path):
    """What is not on the list is not published; hidden files are not."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.json").write_bytes(b"x" * 2_500)
    (tmp_path / "a.safetensors").write_bytes(b"x" * 1_200_000)
    (tmp_path / ".lock").write_text("")
    assert publish.plan(tmp_path) == [{"file": "a.safetensors", "mb": 1.2}, {"file": "sub/b.json", "mb": 0.003}]
    with pytest.raises(FileProblem, match="no such folder"):
        publish.plan(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ("token = h" + "f_" + "aB3" * 12, "Hugging Face token"),
        ("s" + "k-" + "a1B2" * 8, "secret key"),
        ("s" + "k-proj-" + "a1B2" * 8, "secret key"),
        ("AKI" + "A" + "ABCD" * 4, "AWS key"),
        ('"base": "/ho' + 'me/ann/model"', "path of a machine"),
        ("from /ro" + "ot/model", "path of a machine"),
        ("path=/Us" + "ers/ann", "path of a machine"),
        (json.dumps({"base": "C:\\Users\\ann"}), "path of a machine"),
        ("C:\\models", "path of a machine"),
        *(
            (f"{before}/ho" + "me/ann/x", "path of a machine")
            for before in ("`", "<", ">", "|", "{", "@", "\u2014", "")
        ),
        *((f"{place}/x", "path of a machine") for place in ("/o" + "pt", "/me" + "dia/ann", "file:///ho" + "me/ann")),
        ("git clone https://ann:" + "pass@host/x", "a name and password in an address"),
        ("xox" + "b-1234567890-abc", "a Slack token"),
    ],
)
def test_what_must_not_leave_is_found_and_not_repeated(tmp_path, planted, named):
    """A published token is a stolen one; a scan that prints it publishes it once more."""
    (tmp_path / "README.md").write_text(f"fine\n{planted}\n")
    (found,) = publish.findings(tmp_path)
    assert named in found
    assert "README.md, line 2" in found
    assert planted.split()[-1] not in found


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "state.pkl"])
def test_pickles_are_found(tmp_path, name):
    """They run code on loading, and TRL's holds the token in clear."""
    (tmp_path / name).write_bytes(b"\x80\x04")
    assert publish.findings(tmp_path)[0].startswith(f"{name}: ")
    assert "pickle" in publish.findings(tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    ["https://huggingface.co/home/x", "a task-specific, risk-free thing", "hf_xet and hf_transfer", "either/or: 1/2",
     "ratio 3:4 \\n", "Disk-b ab:cd", '"Ġ/home"', "{{ 'Q:\\n' + q + '\\nA:\\n' }}", "Q:\\nWhy?\\nA:\\nSo."],
)  # fmt: skip
def test_ordinary_text_is_clean(tmp_path, text):
    """A scan that cries at every file is switched off."""
    (tmp_path / "README.md").write_text(text)
    assert publish.findings(tmp_path) == []


def test_a_merged_folder_of_ours_is_clean(small_model):
    """The files that we write pass the scan that stands before publishing."""
    for folder, count in ((small_model / "merged", 7), (small_model / "adapter", 5)):
        assert len(publish.plan(folder)) >= count
        assert publish.findings(folder) == []


def test_the_card_says_that_a_stage_was_stopped(out):
    """12 of 40 steps under the recipe's name would pass for the recipe's model."""
    stages = {"sft": {"metrics": {"steps": 12}, "stopped": {"step": 12, "of": 40}}, "dpo": {"metrics": {"steps": 20}}}
    runs.write_json(out / "run.json", {"stages": stages, "chip": "a chip", "dtype": "float32", "versions": {}})
    lines = [line for line in publish.card(out).split("\n") if line.startswith("- **")]
    assert ["12 steps of 40: stopped early" in line for line in lines if "sft" in line or "dpo" in line] == [
        True,
        False,
    ]


HOSTILE = "x\n---\nlicense: mit\n| a | <script>alert(1)</script> `b <script>2</script> b` # c\r\n``` [d](e) *f*\u2028"


def test_the_head_is_what_the_hub_s_own_library_reads(out):
    """A card that the hub cannot read is refused at the end of an upload."""
    change(out, lambda recipe: recipe["dpo"].update(train=recipe["dpo"]["held_out"]))
    for adapter, library, relation in ((False, "transformers", "finetune"), (True, "peft", "adapter")):
        card = ModelCard(publish.card(out, adapter=adapter))
        assert isinstance(card.data, ModelCardData)
        assert (card.data.library_name, card.data.license) == (library, "apache-2.0")
        assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert card.data.to_dict()["base_model_relation"] == relation
        assert card.text.lstrip().startswith("# course: ")


def measured(**more):
    """Figures as `merge.compare` leaves them: two candidates, of which the first was chosen."""
    rate = evaluate.rate([True] * 19 + [False])
    one = {"onto": "dequantized", "dtype": "float32", "kl": 9.5e-4, "top1": 0.976, "tokens": 871, "stops": rate,
           "accuracy": rate, "mb": 538.1}  # fmt: skip
    other = one | {"dtype": "bfloat16", "kl": 0.0954, "tokens": 872, "accuracy": None}
    return MERGED | {
        "onto": "dequantized", "reason": "it stops as often as the trained one", "stops": rate, "accuracy": rate,
        "trained": {"stops": evaluate.rate([True] * 20)}, "survival": {"bfloat16": {"median": 0.81, "low": 0.6}},
        "candidates": {"dequantized, float32": one, "dequantized, bfloat16": other}, "adapter": DIGEST,
    } | more  # fmt: skip


def hostile_run(out):
    stages = {"sft": {"metrics": {"steps": HOSTILE}}, "dpo": {"metrics": {"steps": 20}, "stopped": {"of": HOSTILE}}}
    words = {"chip": HOSTILE, "versions": {HOSTILE: HOSTILE, "hermes_nb": HOSTILE}, "stages": stages}
    runs.write_json(out / "run.json", runs.read_json(out / "run.json") | words)


def hostile_report(out):
    candidates = measured()["candidates"]
    candidates[HOSTILE] = candidates.pop("dequantized, bfloat16")
    reported(out, measured(reason=HOSTILE, candidates=candidates, survival={HOSTILE: {"median": 1, "low": 0}}))
    reported(out, {HOSTILE: {"sampled": SAMPLED}}, "evaluate")


@pytest.mark.parametrize(
    "plant",
    [
        lambda out: change(out, lambda r: r.update(title=HOSTILE)),
        lambda out: change(out, lambda r: r.update(name=HOSTILE)),
        lambda out: change(out, lambda r: r["model"].update(template=HOSTILE, revision=HOSTILE)),
        lambda out: change(out, lambda r: r["dpo"]["train"][0].update(path=HOSTILE.replace("/", ""))),
        lambda out: change(out, lambda r: r.update(overrides=[f"title={HOSTILE}"], variant=HOSTILE, scale=HOSTILE)),
        lambda out: recorded(out, trained_in=HOSTILE, adapters=[{"name": HOSTILE, "sha256": DIGEST},
                                                                {"name": "dpo", "sha256": DIGEST}]),
        hostile_run,
        hostile_report,
    ],
)  # fmt: skip
def test_hostile_words_break_neither_head_nor_table(out, plant):
    """A title with a line of dashes would end the head, a bar would shift a table, a tag would run in a browser."""
    reported(reported(recorded(out), measured()), {"dpo": {"sampled": SAMPLED}}, "evaluate")
    before = {adapter: publish.card(out, adapter=adapter) for adapter in (False, True)}
    plant(out)
    for adapter, was in before.items():
        text = publish.card(out, adapter=adapter)
        assert adapter or text != was
        assert ModelCard(text).data.to_dict().items() >= head(was).items()
        known = [line.split()[0] for line in was.split("\n") if line.startswith(("#", "```"))]
        assert [line.split()[0] for line in text.split("\n") if line.startswith(("#", "```"))] == known
        assert text.split("\n").count("---") == 2
        html = mistune.create_markdown(escape=False, plugins=["table"])(text.split("---\n", 2)[2])
        assert "<script" not in html
        assert "<a " not in html
        rows = [line.replace("\\|", "") for line in text.split("\n") if line.startswith("| ")]
        assert {row.count("|") for row in rows} == {7}


def test_a_hostile_base_is_no_base_of_the_hub(out):
    """What the head says is what the hub links to."""
    before = publish.card(out)
    change(out, lambda r: r["model"].update(base=HOSTILE))
    text = publish.card(out)
    assert head(text) == {k: v for k, v in head(before).items() if not k.startswith("base_model")}
    html = mistune.create_markdown(escape=False, plugins=["table"])(text.split("---\n", 2)[2])
    assert "<script" not in html


@pytest.mark.parametrize(
    "plant", [{"seed": HOSTILE}, {"lora": {"r": HOSTILE}}, {"evaluate": {"questions": HOSTILE}}, {"merge": HOSTILE}]
)
def test_a_recipe_that_is_none_is_refused(out, plant):
    """Words in place of its numbers would stand in the card as they are."""
    change(out, lambda r: r.update(plant))
    with pytest.raises(RecipeProblem, match=r"recipe\.yaml"):
        publish.card(out)


@pytest.mark.parametrize("metrics", [{"kl": 1}, {"kl": "x"}, MERGED | {"tokens": "<b>"}, "x", None])
def test_a_damaged_report_is_said(out, metrics):
    """A traceback names our code in place of the file."""
    reported(out, metrics)
    with pytest.raises(FileProblem, match=r"run that stage again"):
        publish.card(out)


def test_the_figures_are_those_of_the_merge_that_leaves(out):
    """The run's report may be of an earlier adapter, or of another way to merge."""
    missing = "How faithful the merge is was not measured"
    recorded(reported(out, measured()))
    assert "n = 871 held-out tokens: KL 9.5e-04" in publish.card(out)
    recorded(out, dtype="bfloat16")
    text = publish.card(out)
    assert "(onto the dequantized base, bfloat16) against base and adapter in 4 bits, n = 872" in text
    assert "Why this one" not in text
    assert "Accuracy on held-out pairs" not in text  # that candidate's was not measured
    recorded(out, dtype="float16")
    assert missing in publish.card(out)
    recorded(out)
    for wrong in (measured(adapter="cd" * 32), MERGED):
        reported(out, wrong)
        assert missing in publish.card(out, last="dpo")


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("pku_saferlhf", None), ("ultrachat", None), ("ultrafeedback_binarized_preferences", None),
        ("ultrafeedback", "apache-2.0"),
    ],
)  # fmt: skip
def test_the_head_states_no_licence_that_the_data_may_not_allow(out, source, licence):
    """A tool reads the head alone, and "apache-2.0" there permits what the data's licence forbids."""
    one = {"source": source, "path": None}
    change(out, lambda r: r["dpo"].update(train=[r["dpo"]["train"][0] | one]))
    assert head(publish.card(out)).get("license") == licence
    assert head(publish.card(out, last="sft"))["license"] == "apache-2.0"


def test_the_card_says_where_every_row_comes_from_and_under_which_licence(out):
    """Whoever uses a model must know what its data allow; what is not known is not made up."""
    hub = {"source": "pku_saferlhf", "path": None}
    change(out, lambda r: r["dpo"]["train"].append(r["dpo"]["train"][0] | hub))
    (out / "format").mkdir()
    counts = {"orca_dpo_pairs": {"kept": 197, "dropped": 3}, "pku_saferlhf": {"kept": 55, "dropped": 0}}
    runs.write_json(out / "format" / "audit.json", {"dpo_train": {"sources": counts}})
    text = publish.card(out)
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.split("\n") if line.startswith("| ")]
    assert ["sft", "train", "not recorded", "`conversations_train.jsonl`", "`ultrachat_200k`",
            "apache-2.0 (sample rows of hermes_nb)"] in cells  # fmt: skip
    assert ["dpo", "train", "197", "`pairs.jsonl`", "`orca_dpo_pairs`", "unknown (a file of the author)"] in cells
    assert ["dpo", "train", "55", "`PKU-Alignment/PKU-SafeRLHF`", "`pku_saferlhf`",
            "cc-by-nc-4.0 (no commercial use)"] in cells  # fmt: skip
    assert head(text)["datasets"] == ["PKU-Alignment/PKU-SafeRLHF"]


def test_the_card_says_how_the_run_was_made(out):
    """Name, variant, scale, seed, version and what was changed; a path among the changes is not shown."""
    change(out, lambda r: r.update(overrides=["dpo.beta=0.2", "model.base=/home/" + "ann/model"]))
    run = runs.read_json(out / "run.json")
    runs.write_json(out / "run.json", run | {"versions": {"hermes_nb": "7.1"}})
    text = publish.card(out)
    for part in ("hermes_nb 7.1", "recipe `course`", "variant `repaired`", "scale `tiny`", "`dpo.beta=0.2`",
                 "`model.base` (a value not shown)"):  # fmt: skip
        assert part in text, part
    assert "ann" not in text


def test_the_card_compares_the_ways_to_merge(out):
    """One figure alone does not say that the chosen merge was the better one."""
    text = publish.card(reported(out, measured()))
    for part in (
        "Why this one: it stops as often as the trained one",
        "| dequantized, float32 | 9.5e-04 | 97.6% | 95% | 95% | 538 |",
        "| dequantized, bfloat16 | 9.5e-02 | 97.6% | 95% | not measured | 538 |",
        "n = 20 merged; 100% (84% to 100%, 95 % interval), n = 20 as trained",
        "bfloat16 0.810 (lowest 0.600)",
    ):
        assert part in text, part


def test_the_card_shows_how_to_ask(out):
    """Without the generation prompt a tuned model writes on the question."""
    merged, adapter = publish.card(out), publish.card(out, adapter=True, last="sft", name="ann/x")
    stop = templates.STOP["chatml"]
    for text in (merged, adapter):
        assert "add_generation_prompt=True" in text
        assert f"`{stop}`" in text
        compile(text.split("```python\n")[1].split("```")[0], "card", "exec")
    assert "from peft" not in merged
    assert 'name = "{user}/SmolLM2-135M-Instruct-dpo"' in merged
    assert 'name = "ann/x"' in adapter
    assert (
        'AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct", quantization_config=nf4)'
        in adapter
    )
    assert 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True' in adapter
    assert "how much its answers differ on a base in another number format was not measured" in adapter
    assert "pairs.jsonl" not in adapter
    assert "How faithful the merge is was not measured" in merged
    assert "How faithful" not in adapter
    change(out, lambda r: r["model"].update(base="some/model", revision="abc123"))
    assert '"some/model", revision="abc123", quantization_config=nf4)' in publish.card(out, adapter=True)


@pytest.mark.parametrize(
    "name",
    ["model.py", "notes.txt", "data.parquet", "model.gguf", "trainer_state.json", "run.sh", "weights.SAFETENSORS",
     "history.jsonl", "sub/scheduler.xyz", "noext", "notes.json", "begun.json", "run.json", "training_args.json"],
)  # fmt: skip
def test_only_the_files_of_a_model_may_leave(tmp_path, name):
    """What a list of bad endings forgets is published."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    (found,) = publish.findings(tmp_path)
    assert found.startswith(f"{name}: ")
    assert "Leave it out" in found


def test_the_files_of_a_model_may(tmp_path):
    """All that transformers and PEFT write, in the forms of several tokenizers."""
    names = (
        "config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens", "vocab",
        "model.safetensors.index", "adapter_config", "merge", "preprocessor_config", "processor_config",
    )  # fmt: skip
    for name in (f"{name}.json" for name in names):
        runs.write_json(tmp_path / name, {"a": 1})
    for name in ("README.md", "chat_template.jinja", "merges.txt", "vocab.txt", "LICENSE"):
        (tmp_path / name).write_text("a b\n")
    (tmp_path / "tokenizer.model").write_bytes(bytes(range(256)) + b' "/ho' + b"me/x/corpus.txt")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert publish.findings(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b + b"PK", lambda b: b"\x80\x04" + b, lambda b: b""])
def test_weights_must_be_whole_safetensors(tmp_path, damage):
    """A pickle under another name, a cut file, or something behind the weights."""
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(damage(whole))
    assert publish.findings(tmp_path) == ["model.safetensors: not a whole safetensors file. Write it anew."]


@pytest.mark.parametrize("place", ["value", "key", "tensor"])
def test_the_header_of_the_weights_is_read(tmp_path, place):
    """Its metadata is free text that no viewer shows."""
    secret = "h" + "f_" + "aB3" * 12
    metadata = {"value": {"made": f"with {secret}"}, "key": {secret: "x"}, "tensor": {}}[place]
    tensors = {secret if place == "tensor" else "w": np.zeros(3, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    (found,) = publish.findings(tmp_path)
    assert found == "model.safetensors, header: a Hugging Face token."


def test_json_is_read_as_its_readers_read_it(tmp_path):
    """Escapes hide a word from a search in the text, and a file that is no JSON loads nowhere."""
    secret = "h" + "f_" + "aB3" * 12
    hidden = "".join(f"\\u{ord(c):04x}" for c in secret)
    (tmp_path / "added_tokens.json").write_text(f'{{"fine": 1,\n "k": ["{hidden}"]}}')
    runs.write_json(tmp_path / "config.json", {"fine": 1, "base": "C:\\Users\\ann"})
    (tmp_path / "merge.json").write_text('{"half": ')
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    assert publish.findings(tmp_path) == [
        "added_tokens.json: a Hugging Face token.", "config.json, line 3: a path of a machine.",
        "merge.json: not readable as JSON. Write it anew.", "tokenizer.json: not readable as JSON. Write it anew.",
    ]  # fmt: skip


LOCAL = (
    "/opt/x", "/srv/x", "/work/x", "/media/ann/x", "/storage/x", "/dbfs/x", "/private/tmp/x", "/teamspace/x",
    "../models/x", "~/models/x", "D:/models/x", "\\\\server\\share\\x", "runs/c/base", "./x", "x/",
)  # fmt: skip


@pytest.mark.parametrize("key", ["base_model_name_or_path", "_name_or_path", "name_or_path"])
def test_a_config_names_a_model_not_a_place(tmp_path, key):
    """Paths have too many forms for a list of them; names have one."""
    for path in LOCAL:
        runs.write_json(tmp_path / "adapter_config.json", {"deep": [{key: path}]})
        (found,) = publish.findings(tmp_path)
        assert "a path of a machine." in found, path
    for name in ("owner/name-7B.v0_1", "name", "", None):
        runs.write_json(tmp_path / "adapter_config.json", {key: name})
        assert publish.findings(tmp_path) == [], name


@pytest.mark.parametrize("key", ["token", "hub_token", "PASSWORD", "secret", "api_key"])
def test_a_value_under_the_name_of_a_secret_is_one(tmp_path, key):
    """Its shape may be anything; tokenizers name their tokens otherwise."""
    runs.write_json(tmp_path / "config.json", {"deep": [{key: "Tr0ub4dor"}]})
    assert publish.findings(tmp_path) == [f"config.json, {key}: a secret."]
    runs.write_json(tmp_path / "config.json", {key: "", "bos_token": "<s>", "eos_token": "</s>", "use": {key: None}})
    assert publish.findings(tmp_path) == []


def test_a_vocabulary_is_no_list_of_paths_but_may_hide_a_key(tmp_path):
    """Tokenizers learn pieces such as /tmp/x; a scan that cries at them is switched off."""
    secret = "h" + "f_" + "aB3" * 12
    told = {"model": {"vocab": {"/tmp/x": 0, "C:\\Users": 1}, "merges": [["/home/", "a"]]}, "added_tokens": []}
    runs.write_json(tmp_path / "tokenizer.json", told)
    (tmp_path / "merges.txt").write_text("/home/ a\n")
    assert publish.findings(tmp_path) == []
    told["model"]["vocab"][secret] = 2
    told["added_tokens"] = [{"content": "/home/" + "ann/x"}]
    runs.write_json(tmp_path / "tokenizer.json", told)
    found = publish.findings(tmp_path)
    assert sorted(line.rpartition(": ")[2] for line in found) == ["a Hugging Face token.", "a path of a machine."]


@pytest.mark.slow
def test_the_built_in_model_s_real_tokenizer_is_clean(tmp_path):
    """49,152 real pieces: the commonest false alarm there could be."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copyfile(models.builtin() / name, tmp_path / name)
    assert publish.findings(tmp_path) == []
    told = runs.read_json(tmp_path / "tokenizer.json") | {"note": "/home/" + "ann/tokenizer"}
    runs.write_json(tmp_path / "tokenizer.json", told)
    assert "path of a machine" in publish.findings(tmp_path)[0]


def test_a_key_in_a_file_that_may_not_leave_is_still_told(tmp_path):
    """Leaving the file out is not enough: the key in it may have left before."""
    secret = "h" + "f_" + "aB3" * 12
    (tmp_path / "notes.txt").write_text(f"fine\n{secret}")
    (tmp_path / "training_args.bin").write_bytes(b"\x80\0" + secret.encode() + b"\0")
    found = publish.findings(tmp_path)
    assert [line for line in found if "token." in line and "Hugging" in line] == [
        "notes.txt, line 2: a Hugging Face token.", "training_args.bin: a Hugging Face token.",
    ]  # fmt: skip
    assert len(found) == 4


def test_links_that_lead_out_are_refused_and_not_read(tmp_path):
    """A link in a folder publishes what it points to."""
    folder, secret = tmp_path / "model", tmp_path / "secret.json"
    (folder / ".hidden").mkdir(parents=True)
    for file in (secret, folder / "config.json", folder / ".hidden" / "config.json", folder / ".env"):
        file.write_text("{}")
    (folder / "vocab.json").symlink_to(folder / "config.json")
    assert publish.findings(folder) == []
    links = {"added_tokens.json": secret, "merge.json": tmp_path / "gone.json", "tokenizer.json": folder / ".env",
             "tokenizer_config.json": folder / ".hidden" / "config.json", "way": tmp_path}  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    said = "a link that leads out of the folder; put the file itself there."
    assert publish.findings(folder) == [f"{name}: {said}" for name in links]
