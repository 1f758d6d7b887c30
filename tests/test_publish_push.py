"""Run alone: python -m pytest tests/test_publish_push.py

The hub's real client against a small hub on loopback (hub_server.py); no other address is ever asked.
"""

import json
import types

import hub_server
import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http as client
from safetensors.numpy import save_file

from hermes_nb import publish, recipes, runs
from hermes_nb.errors import FileProblem, NetworkProblem, RecipeProblem

MERGED = "ann/SmolLM2-135M-Instruct-dpo"


def small_run(folder):
    """A run directory with an SFT and a DPO adapter and a merged model, each of a few numbers."""
    recipe = recipes.load("course", "tiny")
    folder.mkdir()
    runs.write_text(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict()))
    stages = {"sft": {"metrics": {"steps": 40}}, "dpo": {"metrics": {"steps": 20}}}
    runs.write_json(
        folder / "run.json",
        {"stages": stages, "chip": "a chip", "dtype": "float32", "versions": {"hermes_nb": "0.1.0"}},
    )
    places = {"sft/adapter": "adapter_model", "dpo/adapter": "adapter_model", "merged": "model"}
    for number, (place, weights) in enumerate(places.items()):
        here = folder / place
        here.mkdir(parents=True)
        save_file({"w": np.full(2_000, number, np.float32)}, here / f"{weights}.safetensors", {"format": "pt"})
        runs.write_json(here / "tokenizer.json", {"model": {"vocab": {"a": 0}, "merges": []}})
        (here / "chat_template.jinja").write_text("{{ messages }}")
        if place == "merged":
            runs.write_json(here / "config.json", {"model_type": "llama"})
        else:
            named = {"base_model_name_or_path": "SmolLM2-135M-Instruct", "revision": "b179c9523d0e"}
            runs.write_json(here / "adapter_config.json", named)
    return folder


@pytest.fixture
def run(tmp_path):
    """A run directory, and nothing else, below a folder of its own."""
    return small_run(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback that the client takes for the only one, and a token for it; waiting between tries is skipped.

    The client reads its environment at import, so its constants are changed: tests run offline but for this.
    """
    with hub_server.running() as here:
        monkeypatch.setattr(constants, "ENDPOINT", here.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks LFS
        monkeypatch.setattr(client, "time", types.SimpleNamespace(sleep=lambda s: None, time=client.time.time))
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield here
        huggingface_hub.close_session()


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left_behind(run):
    """Work folders that an error or a success forgot."""
    return [p for p in run.rglob(".publish-*")]


@pytest.mark.parametrize(
    ("place", "name"), [("merged", MERGED), ("dpo/adapter", f"{MERGED}-lora"),
                        ("sft/adapter", "ann/SmolLM2-135M-Instruct-sft-lora")],
)  # fmt: skip
def test_what_arrives_is_the_dry_run_s_folder(run, hub, tmp_path, place, name):
    """A dry run that shows other files than are sent is no dry run; several commits are a half-published model."""
    dry = publish.push(run / place, dry_run=tmp_path / "dry")
    assert hub.requests == []
    assert dry.repo == name.replace("ann", "{user}")
    told = publish.push(run / place)
    repo = hub.repos[name]
    assert repo.files == contents(tmp_path / "dry")
    assert set(repo.files) == {p.name for p in (run / place).iterdir()} | {"README.md"}
    assert (repo.commits, repo.private) == (1, True)
    assert (told.repo, told.where, told.sent) == (name, f"{hub.url}/{name}", True)
    assert (told.files, told.bytes) == (dry.files, sum(map(len, repo.files.values())))
    assert not left_behind(run)
    assert not (run / place / "README.md").exists()


def test_the_token_is_in_one_header_and_nowhere_else(run, hub, capsys):
    """A token in an address lands in logs; in a file it is published."""
    told = publish.push(run / "merged")
    for request in hub.requests:
        headers = {k: v for k, v in request["headers"].items() if k != "authorization"}
        assert hub_server.TOKEN not in f"{request['path']} {headers}"
        assert hub_server.TOKEN.encode() not in request["body"]
    assert hub.asked("POST .*/commit/")[0]["headers"]["authorization"] == f"Bearer {hub_server.TOKEN}"
    assert hub.asked("PUT ")
    assert not [r for r in hub.asked("PUT ") if "authorization" in r["headers"]]
    assert hub_server.TOKEN not in f"{told} {publish.text(told)} {capsys.readouterr()}"


def test_a_secret_means_that_nothing_is_asked_at_all(run, hub):
    """Every finding is named, at once; no repo is made for a push that will be refused."""
    (run / "merged" / "config.json").write_text(json.dumps({"key": hub_server.TOKEN}))
    (run / "merged" / "training_args.bin").write_bytes(b"\x80\x04")
    with pytest.raises(FileProblem) as refused:
        publish.push(run / "merged")
    assert "a Hugging Face token" in str(refused.value)
    assert "training_args.bin: a pickle" in str(refused.value)
    assert hub_server.TOKEN not in str(refused.value)
    assert hub.requests == []
    assert not left_behind(run)


def test_a_secret_in_the_recipe_does_not_leave_in_the_card(run, hub):
    """The card is written last, and quotes titles."""
    recipe = runs.read_yaml(run / "recipe.yaml") | {"title": f"with {hub_server.TOKEN}"}
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    with pytest.raises(FileProblem, match=r"README\.md, line \d+: a Hugging Face token"):
        publish.push(run / "merged")
    assert hub.requests == []


def test_a_token_of_another_shape_is_found_by_itself(run, hub, monkeypatch):
    """Not every token begins with hf_."""
    monkeypatch.setenv("HF_TOKEN", "opensesame-opensesame")
    (run / "merged" / "config.json").write_text(json.dumps({"key": "opensesame-opensesame"}))
    with pytest.raises(FileProblem, match="the token in use"):
        publish.push(run / "merged")
    assert hub.requests == []


def test_an_upload_that_is_cut_leaves_no_commit_and_the_next_one_succeeds(run, hub):
    """A network that fails in the middle must leave neither half a model nor a riddle."""
    hub.cut = 1_000
    with pytest.raises(NetworkProblem, match="call again; a commit is made at the end or not at all") as failed:
        publish.push(run / "merged")
    assert hub_server.TOKEN not in str(failed.value)
    assert hub.asked("PUT ")
    assert (hub.repos[MERGED].files, hub.repos[MERGED].commits) == ({}, 0)
    hub.cut = 0
    publish.push(run / "merged")
    assert hub.repos[MERGED].commits == 1
    assert "model.safetensors" in hub.repos[MERGED].files


@pytest.mark.parametrize(
    ("refused", "status", "said"),
    [
        ("GET /api/whoami-v2", 401, "does not accept this token; make one with write access"),
        ("POST /api/repos/create", 403, "this token may not write there"),
        ("POST .*/commit/", 403, "this token may not write there"),
        ("POST .*/commit/", 500, "it answered 500; wait a little and call again"),
        ("PUT ", 507, "it answered 507"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_next_step(run, hub, refused, status, said):
    """A stack of HTTP errors tells a learner nothing; the token is never among the words."""
    hub.refuse[refused] = status
    with pytest.raises(NetworkProblem, match=said) as failed:
        publish.push(run / "merged")
    assert hub_server.TOKEN not in str(failed.value)
    assert "No commit was made" in str(failed.value)
    assert not left_behind(run)


def test_a_wrong_token_is_said(run, hub, monkeypatch):
    """An expired one is the commonest."""
    monkeypatch.setenv("HF_TOKEN", "h" + "f_" + "old" * 12)
    with pytest.raises(NetworkProblem, match="does not accept this token"):
        publish.push(run / "merged")


def test_no_token_and_an_odd_one_are_said_before_anything_is_asked(run, hub, monkeypatch):
    """A line end inside a header would make the client print the whole token."""
    monkeypatch.setattr(publish.push.__globals__["token"].__globals__["os"], "environ", {})
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RecipeProblem, match="no Hugging Face token here"):
        publish.push(run / "merged")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "abc\ndef")
    with pytest.raises(RecipeProblem, match="odd characters") as refused:
        publish.push(run / "merged")
    assert "def" not in str(refused.value)
    assert hub.requests == []


def test_offline_and_unreachable_are_said(run, hub, monkeypatch):
    """The two ways of having no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkProblem, match="unset HF_HUB_OFFLINE"):
        publish.push(run / "merged")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkProblem, match="no whole answer from http://127.0.0.1:9"):
        publish.push(run / "merged")


@pytest.mark.parametrize(
    "name", ["a/b/c", "ann/with blank", "ann/two--dashes", "https://huggingface.co/ann/x", "", "a/" * 3]
)
def test_a_malformed_name_is_said_before_anything_is_asked(run, hub, name):
    """The hub's own words come after an upload."""
    with pytest.raises(RecipeProblem, match="give OWNER/NAME"):
        publish.push(run / "merged", name)
    assert hub.requests == []


def test_a_public_repo_is_not_filled_by_a_private_push(run, hub):
    """Whoever asks for private must not find the model in the open; nor does a push change what is private."""
    hub.repos[MERGED] = hub_server.Repo(private=False)
    with pytest.raises(RecipeProblem, match="exists and is public; nothing was sent"):
        publish.push(run / "merged")
    assert not hub.asked("POST ")
    assert publish.push(run / "merged", private=False).private is False
    hub.repos["ann/mine"] = hub_server.Repo(private=True)
    assert publish.push(run / "merged", "mine", private=False).private is True
    assert (hub.repos[MERGED].private, hub.repos["ann/mine"].private) == (False, True)
    assert publish.push(run / "merged", "ann/open", private=False).private is False
    assert hub.repos["ann/open"].private is False


def test_older_weights_do_not_stay_beside_new_ones(run, hub):
    """transformers reads model.safetensors before any shards: the old model would answer under the new card."""
    old = {"model.safetensors": b"old", "notes.md": b"theirs", "onnx/model.safetensors": b"theirs"}
    hub.repos[MERGED] = hub_server.Repo(private=True, files=dict(old))
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        save_file({shard[:11]: np.zeros(500, np.float32)}, run / "merged" / shard)
    (run / "merged" / "model.safetensors").unlink()
    publish.push(run / "merged")
    files = hub.repos[MERGED].files
    assert "model.safetensors" not in files
    assert {"notes.md", "onnx/model.safetensors", *shards} <= set(files)
    assert hub.repos[MERGED].commits == 1


def test_a_dry_run_is_whole_or_absent_and_needs_no_token(run, tmp_path, monkeypatch):
    """Nothing half-written, nothing overwritten, nothing asked (the client is offline in all other tests)."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    told = publish.push(run / "merged", "ann/x", dry_run=tmp_path / "a" / "dry")
    assert (told.repo, told.where, told.sent) == ("ann/x", str(tmp_path / "a" / "dry"), False)
    assert 'name = "ann/x"' in (tmp_path / "a" / "dry" / "README.md").read_text()
    with pytest.raises(FileProblem, match="exists already"):
        publish.push(run / "merged", dry_run=tmp_path / "a" / "dry")
    with pytest.raises(FileProblem, match="inside the model's own folder"):
        publish.push(run / "merged", dry_run=run / "merged" / "dry")
    (run / "merged" / "x.py").write_text("")
    with pytest.raises(FileProblem, match=r"x\.py: no file of a model"):
        publish.push(run / "merged", dry_run=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not [p for p in tmp_path.rglob(".publish-*")]


def test_an_adapter_names_a_base_that_others_can_load(run, tmp_path):
    """The built-in model's own name is no hub name, and its revision is that of another file."""
    publish.push(run / "dpo" / "adapter", dry_run=tmp_path / "dry")
    config = runs.read_json(tmp_path / "dry" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", None)
    assert runs.read_json(run / "dpo" / "adapter" / "adapter_config.json")["revision"] == "b179c9523d0e"


def test_an_adapter_of_a_local_base_is_warned_of_not_refused(run, tmp_path):
    """Without its base nobody else can use it, but its owner can."""
    recipe = runs.read_yaml(run / "recipe.yaml")
    recipe["model"]["base"] = "/data/models/mine"
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    told = publish.push(run / "dpo" / "adapter", dry_run=tmp_path / "dry")
    assert told.repo == "{user}/mine-dpo-lora"
    assert any("'mine', which is no name on the hub" in note for note in told.notes)
    assert "is not on the hub under that name" in (tmp_path / "dry" / "README.md").read_text()


def test_doubtful_licences_are_noted(run, tmp_path):
    """A card is read after publishing; a note before."""
    recipe = runs.read_yaml(run / "recipe.yaml")
    recipe["dpo"]["train"][0] |= {"source": "pku_saferlhf", "path": None}
    recipe["model"]["base"] = "some/model"
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    notes = publish.push(run / "merged", dry_run=tmp_path / "dry").notes
    assert "the licence of some/model is not known to us; look it up before you publish." in notes
    assert "the licence of the data set PKU-Alignment/PKU-SafeRLHF: cc-by-nc-4.0 (no commercial use)." in notes
    assert len(notes) == 2


def test_a_card_that_stands_there_is_kept(run, tmp_path):
    """Somebody wrote it, or read it and left it."""
    (run / "merged" / "README.md").write_text("# mine\n")
    told = publish.push(run / "merged", dry_run=tmp_path / "dry")
    assert (tmp_path / "dry" / "README.md").read_text() == "# mine\n"
    assert any(note.startswith("README.md: as it stands") for note in told.notes)


def test_the_stage_is_that_of_the_adapter_that_was_merged(run, tmp_path):
    """An SFT model under the name of DPO is a false claim."""
    digest = runs.file_digest(run / "sft" / "adapter" / "adapter_model.safetensors")
    told = {
        "onto": "dequantized", "dtype": "float32", "trained_in": "bfloat16", "parameters": 2_000, "bytes": 8_000,
        "adapters": [{"name": "adapter", "sha256": digest}],
    }  # fmt: skip
    runs.write_json(run / "merged" / "merge.json", told)
    assert publish.push(run / "merged", dry_run=tmp_path / "dry").repo == "{user}/SmolLM2-135M-Instruct-sft"
    text = (tmp_path / "dry" / "README.md").read_text()
    assert f"Merged from `adapter` (sha256 `{digest[:12]}`)" in text
    assert "pairs_train" not in text


def test_without_a_run_the_card_must_be_there(run, tmp_path):
    """A model without a card says nothing of its base, its data or its licence."""
    alone = tmp_path / "alone"
    (run / "merged").rename(alone)
    with pytest.raises(FileProblem, match=r"name the run, or put a README\.md there"):
        publish.push(alone, dry_run=tmp_path / "dry")
    told = publish.push(alone, run=run, dry_run=tmp_path / "dry")
    assert told.repo == "{user}/SmolLM2-135M-Instruct-dpo"
    (alone / "README.md").write_text("# mine\n")
    assert publish.push(alone, dry_run=tmp_path / "other").repo == "{user}/alone-tuned"


def test_a_folder_that_holds_no_model_is_refused(run, tmp_path):
    """Else a run directory is published in place of its model."""
    for folder in (run, run / "sft"):
        with pytest.raises(FileProblem, match="neither a merged model"):
            publish.push(folder, dry_run=tmp_path / "dry")
