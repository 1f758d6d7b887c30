"""Run alone: python -m pytest tests/test_publish.py"""

import dataclasses
import json

import pytest
import yaml

from hermes_nb import evaluate, publish, recipes, runs
from hermes_nb.errors import FileProblem
from hermes_nb.generate import Answer

MERGED = {"kl": 9.5e-4, "top1": 0.976, "tokens": 871, "kl_without_adapter": 1.45, "dtype": "float32"}


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


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_was_done_and_measured(out):
    """A card without base, data, settings, figures with n and limits tells nobody what the model is."""
    text = publish.card(out, merge=MERGED)
    assert head(text) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["sft", "dpo", "qlora", "hermes_nb"],
    }  # fmt: skip
    lora = recipes.load("course", "tiny").lora
    settings = ("beta 0.1", "40 steps", f"LoRA r {lora.r}", "seed 0")
    for part in (*settings, "n = 871", "97.6%", "pairs.jsonl", "## Limits", "torch 2.13"):
        assert part in text, part
    assert "not measured in this run" in text
    stops = {"stops": evaluate.rate([True] * 19 + [False])}
    assert "95% (76% to 99%, 95 % interval), n = 20" in publish.card(out, merge=MERGED | stops)


def test_the_card_shows_the_evaluation_with_its_n(out):
    """Rates without n and interval are an opinion."""
    sampled = evaluate.summary([Answer("Short answer: x", True, 3), Answer("Rain!", False, 3)])
    (out / "reports").mkdir()
    runs.write_json(out / "reports" / "evaluate.json", {"metrics": {"dpo": {"sampled": sampled}}})
    runs.write_json(out / "reports" / "merge.json", {"metrics": MERGED})
    text = publish.card(out)
    assert "| dpo | 50% (9% to 91%)" in text
    assert "on 2 answers" in text
    assert "not measured" not in text
    assert "n = 871" in text


def test_the_card_holds_nothing_of_this_machine(out):
    """A path names a person; the card itself must pass the scan that it is published under."""
    folder = out / "model"
    folder.mkdir()
    (folder / "README.md").write_text(publish.card(out, merge=MERGED))
    assert "someone" not in publish.card(out)
    assert publish.findings(folder) == []


def test_the_card_does_not_claim_stages_that_were_not_trained_here(out):
    """With shipped adapters the recipe's settings are not what made them."""
    runs.write_json(out / "run.json", {"stages": {}, "chip": None, "dtype": None, "versions": None})
    text = publish.card(out)
    assert text.count("not trained in this run") == 2
    assert "beta" not in text


def test_an_unknown_base_has_no_made_up_licence(out):
    """A licence is read, not guessed; and a base in a folder is named without its path."""
    recipe = runs.read_yaml(out / "recipe.yaml")
    for base, named in (("/data/models/mine", "mine"), ("some/model", "some/model"), ("C:\\models\\mine", "mine")):
        recipe["model"]["base"] = base
        runs.write_text(out / "recipe.yaml", yaml.safe_dump(recipe))
        text = publish.card(out)
        assert (head(text)["base_model"], head(text)["license"]) == (named, "other")
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
    ],
)
def test_what_must_not_leave_is_found_and_not_repeated(tmp_path, planted, named):
    """A published token is a stolen one; a scan that prints it publishes it once more."""
    (tmp_path / "config.json").write_text(f'{{"fine": 1}}\n{planted}\n')
    (found,) = publish.findings(tmp_path)
    assert named in found
    assert "config.json, line 2" in found
    assert planted.split()[-1] not in found


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "state.pkl"])
def test_pickles_are_found(tmp_path, name):
    """They run code on loading, and TRL's holds the token in clear."""
    (tmp_path / name).write_bytes(b"\x80\x04")
    assert "pickle" in publish.findings(tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    ["https://huggingface.co/home/x", "a task-specific, risk-free thing", "hf_xet and hf_transfer", "either/or: 1/2",
     "ratio 3:4 \\n", "Disk-b ab:cd", '"Ġ/home"'],
)  # fmt: skip
def test_ordinary_text_is_clean(tmp_path, text):
    """A scan that cries at every file is switched off."""
    (tmp_path / "README.md").write_text(text)
    assert publish.findings(tmp_path) == []


def test_a_merged_folder_of_ours_is_clean(tiny_base):
    """The files that we write pass the scan that stands before publishing."""
    assert publish.findings(tiny_base) == []


def test_the_card_says_that_a_stage_was_stopped(out):
    """12 of 40 steps under the recipe's name would pass for the recipe's model."""
    stages = {"sft": {"metrics": {"steps": 12}, "stopped": {"step": 12, "of": 40}}, "dpo": {"metrics": {"steps": 20}}}
    runs.write_json(out / "run.json", {"stages": stages, "chip": "a chip", "dtype": "float32", "versions": {}})
    lines = [line for line in publish.card(out).split("\n") if line.startswith("- **")]
    assert ["12 steps of 40: stopped early" in line for line in lines if "sft" in line or "dpo" in line] == [
        True,
        False,
    ]
