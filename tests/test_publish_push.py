"""Run alone: python -m pytest tests/test_publish_push.py

The hub's real client against a small hub on loopback (hub_server.py); no other address is ever asked.
"""

import shutil
import types

import hub_server
import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http as client
from safetensors.numpy import load_file, save_file

from hermes_nb import merge, models, publish, recipes, runs
from hermes_nb.errors import FileProblem, NetworkProblem, RecipeProblem

MERGED, INDEX = "ann/SmolLM2-135M-Instruct-dpo", "model.safetensors.index.json"


def made_model(tiny_base, place):
    """Put an `adapter` of random numbers and the model `merged` from it, by our own merge, into the folder `place`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)
    models.save_adapter(model, place / "adapter", "builtin")
    models.save_tokenizer(models.tokenizer(tiny_base, "chatml"), place / "adapter")
    merge.merge(tiny_base, place / "adapter", place / "merged", "original", "float32")
    return place


@pytest.fixture(scope="module")
def small_model(tiny_base, tmp_path_factory):
    """Adapter and merged model, made once."""
    return made_model(tiny_base, tmp_path_factory.mktemp("small"))


def small_run(folder, model):
    """A run directory with an SFT and a DPO adapter and a merged model, as if made of the built-in one."""
    recipe = recipes.load("course", "tiny")
    folder.mkdir()
    runs.write_text(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict()))
    stages = {"sft": {"metrics": {"steps": 40}}, "dpo": {"metrics": {"steps": 20}}}
    runs.write_json(
        folder / "run.json",
        {"stages": stages, "chip": "a chip", "dtype": "float32", "versions": {"hermes_nb": "0.1.0"}},
    )
    for stage in ("sft", "dpo"):
        shutil.copytree(model / "adapter", folder / stage / "adapter")
        named = {"base_model_name_or_path": "SmolLM2-135M-Instruct", "revision": "b179c9523d0e"}
        change(folder / stage / "adapter" / "adapter_config.json", **named)
    save_file({"w": np.ones(2_000, np.float32)}, folder / "sft" / "adapter" / "adapter_model.safetensors")
    shutil.copytree(model / "merged", folder / "merged")
    change(folder / "merged" / "merge.json", base="builtin")
    return folder


def change(path, **values):
    """Set keys of a JSON file."""
    runs.write_json(path, runs.read_json(path) | values)


@pytest.fixture
def run(tmp_path, small_model):
    """A run directory, and nothing else, below a folder of its own."""
    return small_run(tmp_path / "run", small_model)


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


def asked(hub):
    """What was asked of the hub, but for the user's name."""
    return [r["line"] for r in hub.requests if "whoami" not in r["line"]]


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
    shown = contents(tmp_path / "dry")
    shown["README.md"] = shown["README.md"].replace(b"{user}", b"ann")
    assert repo.files == shown
    assert set(repo.files) == {p.name for p in (run / place).iterdir()} | {"README.md"}
    assert (repo.commits, repo.private) == (1, True)
    assert (told.repo, told.where, told.sent) == (name, f"{hub.url}/{name}", True)
    assert ([f["file"] for f in told.files], told.bytes) == (sorted(shown), sum(map(len, shown.values())))
    assert f'name = "{name}"'.encode() in shown["README.md"]
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


def test_a_secret_means_that_no_repo_is_asked_for(run, hub):
    """Every finding is named, at once; no repo is made for a push that will be refused."""
    change(run / "merged" / "config.json", key=hub_server.TOKEN)
    (run / "merged" / "training_args.bin").write_bytes(b"\x80\x04")
    with pytest.raises(FileProblem) as refused:
        publish.push(run / "merged")
    assert "a Hugging Face token" in str(refused.value)
    assert "training_args.bin: a pickle" in str(refused.value)
    assert hub_server.TOKEN not in str(refused.value)
    assert asked(hub) == []
    assert not left_behind(run)


def test_a_secret_in_the_recipe_does_not_leave_in_the_card(run, hub):
    """The card is written last, and quotes titles."""
    recipe = runs.read_yaml(run / "recipe.yaml") | {"title": f"with {hub_server.TOKEN}"}
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    with pytest.raises(FileProblem, match=r"README\.md, line \d+: a Hugging Face token"):
        publish.push(run / "merged")
    assert asked(hub) == []


def test_a_token_of_another_shape_is_found_by_itself(run, hub, monkeypatch):
    """Not every token begins with hf_."""
    monkeypatch.setenv("HF_TOKEN", "opensesame-opensesame")
    monkeypatch.setattr(hub_server, "TOKEN", "opensesame-opensesame")
    change(run / "merged" / "config.json", key="opensesame-opensesame")
    with pytest.raises(FileProblem, match="the token in use"):
        publish.push(run / "merged")
    assert asked(hub) == []


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


@pytest.mark.parametrize(("refused", "status"), [("POST .*/commit/", 504), ("PUT ", 507)])
def test_an_answer_of_a_gateway_does_not_say_that_nothing_was_done(run, hub, refused, status):
    """The hub may have made the commit although the answer got lost."""
    hub.refuse[refused] = status
    with pytest.raises(NetworkProblem, match=f"answered {status} .* Look at the repo before you call again") as failed:
        publish.push(run / "merged")
    assert "No commit" not in str(failed.value)


def test_a_gated_repo_is_there(run, hub):
    """The client calls it a repo that was not found; making it anew would fail with a riddle."""
    hub.gated.add(MERGED)
    with pytest.raises(NetworkProblem, match="this token may not write there"):
        publish.push(run / "merged")
    assert not hub.asked("POST /api/repos/create")


@pytest.mark.parametrize(
    ("refused", "status", "said"),
    [
        ("GET /api/whoami-v2", 401, "does not accept this token; make one with write access"),
        ("POST /api/repos/create", 403, "this token may not write there"),
        ("POST .*/commit/", 403, "this token may not write there"),
        ("POST .*/commit/", 412, "the repo was changed meanwhile"),
        ("POST .*/commit/", 418, "it answered 418; call again"),
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
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
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


def sharded(folder):
    """Cut the model in `folder` into two files with an index; returns their names."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        save_file({n: tensors[n] for n in held}, folder / shard, {"format": "pt"})
    size = sum(t.nbytes for t in tensors.values())
    places = {n: shard for shard, held in shards.items() for n in held}
    runs.write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})
    (folder / "model.safetensors").unlink()
    return [*shards]


def test_older_weights_do_not_stay_beside_new_ones(run, hub):
    """transformers reads model.safetensors before any shards: the old model would answer under the new card.

    What else lies there, whatever its name begins with, is somebody's.
    """
    theirs = (
        "notes.md", "onnx/model.safetensors", "models/other/weights.safetensors", "model.fp16.safetensors",
        "model_backup.safetensors", "model-1-of-2.safetensors", "sub/model.safetensors.index.json",
    )  # fmt: skip
    olds = ("model.safetensors", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    hub.repos[MERGED] = hub_server.Repo(private=True, files=dict.fromkeys((*theirs, *olds), b"x"))
    shards = sharded(run / "merged")
    told = publish.push(run / "merged")
    files = hub.repos[MERGED].files
    assert {*theirs, *shards, INDEX} <= set(files)
    assert not {*olds} & set(files)
    assert hub.repos[MERGED].commits == 1
    assert f"older weights there were deleted: {', '.join(olds)}." in told.notes
    hub.repos[MERGED].files[shards[0]] = b"old"
    assert not [note for note in publish.push(run / "merged").notes if "deleted" in note]


def test_an_index_of_older_shards_does_not_stay(run, hub):
    """A single file beside an old index: some programs follow the index."""
    hub.repos[MERGED] = hub_server.Repo(private=True, files={INDEX: b"{}"})
    assert f"older weights there were deleted: {INDEX}." in publish.push(run / "merged").notes
    assert INDEX not in hub.repos[MERGED].files


@pytest.mark.parametrize(
    ("place", "there", "said"),
    [
        ("dpo/adapter", "model.safetensors", "holds a merged model .* and this is an adapter"),
        ("dpo/adapter", "model-00001-of-00002.safetensors", "holds a merged model"),
        ("merged", "adapter_config.json", "holds an adapter .* and this is a merged model"),
    ],
)
def test_an_adapter_and_a_merged_model_do_not_share_a_repo(run, hub, place, there, said):
    """The one would delete the other, or keep it from being loaded."""
    hub.repos["ann/x"] = hub_server.Repo(private=True, files={there: b"x"})
    with pytest.raises(RecipeProblem, match=f"{said}.*--repo"):
        publish.push(run / place, "ann/x")
    assert hub.repos["ann/x"].files == {there: b"x"}
    assert not hub.asked("POST ")


def test_what_was_committed_meanwhile_is_not_lost(run, hub, monkeypatch):
    """Between looking at the repo and the commit somebody may have changed it."""
    hub.repos[MERGED] = hub_server.Repo(private=True, files={"model.safetensors": b"x"}, commits=3)
    validate = hub_server.Answering.preupload

    def meanwhile(self, body, name):
        hub.repos[name].commits += 1
        validate(self, body, name)

    routes = {k: meanwhile if v is validate else v for k, v in hub_server.Answering.ROUTES.items()}
    monkeypatch.setattr(hub_server.Answering, "ROUTES", routes)
    with pytest.raises(NetworkProblem, match="the repo was changed meanwhile"):
        publish.push(run / "merged")
    assert hub.repos[MERGED].files == {"model.safetensors": b"x"}


def test_a_card_on_the_hub_that_is_replaced_is_told(run, hub):
    """Somebody may have edited it there; the old one is in the repo's history."""
    assert not [note for note in publish.push(run / "merged").notes if "README" in note]
    assert "README.md there was replaced." in publish.push(run / "merged").notes


def test_a_model_that_is_not_whole_is_refused(run, hub):
    """A scan for secrets finds nothing wrong with half a model."""
    shards = sharded(run / "merged")
    (run / "merged" / shards[1]).unlink()
    with pytest.raises(FileProblem, match=f"{shards[1]}: named by .* but missing"):
        publish.push(run / "merged")
    assert asked(hub) == []


def test_a_dry_run_is_whole_or_absent_and_needs_no_token(run, tmp_path, monkeypatch):
    """Nothing half-written, nothing overwritten, nothing asked (the client is offline in all other tests)."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    told = publish.push(run / "merged", "ann/x", dry_run=tmp_path / "a" / "dry")
    assert (told.repo, told.where, told.sent) == ("ann/x", str(tmp_path / "a" / "dry"), False)
    assert 'name = "ann/x"' in (tmp_path / "a" / "dry" / "README.md").read_text()
    with pytest.raises(FileProblem, match="exists already"):
        publish.push(run / "merged", dry_run=tmp_path / "a" / "dry")
    (tmp_path / "way").symlink_to(run / "merged", target_is_directory=True)
    for inside in (run / "merged" / "dry", tmp_path / "way" / "dry"):
        with pytest.raises(FileProblem, match="inside the model's own folder"):
            publish.push(run / "merged", dry_run=inside)
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
    change(run / "dpo" / "adapter" / "adapter_config.json", base_model_name_or_path="/data/models/mine")
    told = publish.push(run / "dpo" / "adapter", dry_run=tmp_path / "dry")
    assert told.repo == "{user}/mine-dpo-lora"
    assert any("'mine', which is no name on the hub" in note for note in told.notes)
    assert "is not on the hub under that name" in (tmp_path / "dry" / "README.md").read_text()
    assert runs.read_json(tmp_path / "dry" / "adapter_config.json")["base_model_name_or_path"] == "mine"


def test_a_path_in_a_config_leaves_as_its_last_part(run, tmp_path):
    """transformers writes where it has loaded from; the folder's own files stay as they are."""
    path = str(tmp_path / "base")
    for name, value in (("config", path), ("tokenizer_config", "runs/c/base")):
        key = "_name_or_path" if name == "config" else "name_or_path"
        change(run / "merged" / f"{name}.json", **{key: value})
        publish.push(run / "merged", dry_run=tmp_path / name)
        assert runs.read_json(tmp_path / name / f"{name}.json")[key] == "base"
        assert runs.read_json(run / "merged" / f"{name}.json")[key] == value


def test_doubtful_licences_are_noted(run, tmp_path):
    """A card is read after publishing; a note before."""
    recipe = runs.read_yaml(run / "recipe.yaml")
    recipe["dpo"]["train"][0] |= {"source": "pku_saferlhf", "path": None}
    more = [{"source": "ultrachat"}, {"source": "ultrafeedback"}, {"source": "orca_dpo_pairs", "path": "/x/mine.jsonl"}]
    recipe["dpo"]["train"] += more
    recipe["model"]["base"] = "some/model"
    change(run / "merged" / "merge.json", base="some/model")
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    notes = publish.push(run / "merged", dry_run=tmp_path / "dry").notes
    assert "the licence of some/model is not known to us; look it up before you publish." in notes
    assert "the licence of the data set PKU-Alignment/PKU-SafeRLHF: cc-by-nc-4.0 (no commercial use)." in notes
    assert "the licence of the data set stingning/ultrachat: mit (its project's README: CC BY-NC 4.0)." in notes
    assert "the licence of the data set mine.jsonl: unknown (a file of the author)." in notes
    assert len(notes) == 4


def test_a_card_that_stands_there_is_kept(run, tmp_path):
    """Somebody wrote it, or read it and left it."""
    (run / "merged" / "README.md").write_text("# mine\n")
    told = publish.push(run / "merged", dry_run=tmp_path / "dry")
    assert (tmp_path / "dry" / "README.md").read_text() == "# mine\n"
    assert any(note.startswith("README.md: as it stands") for note in told.notes)


def test_the_stage_is_that_of_the_adapter_that_was_merged(run, tmp_path):
    """An SFT model under the name of DPO is a false claim."""
    digest = runs.file_digest(run / "sft" / "adapter" / "adapter_model.safetensors")
    change(run / "merged" / "merge.json", adapters=[{"name": "adapter", "sha256": digest}])
    assert publish.push(run / "merged", dry_run=tmp_path / "dry").repo == "{user}/SmolLM2-135M-Instruct-sft"
    text = (tmp_path / "dry" / "README.md").read_text()
    assert f"Merged from `adapter` (sha256 `{digest[:12]}`)" in text
    assert "pairs_train" not in text


def test_the_stage_of_an_adapter_is_found_by_its_weights(run, tmp_path):
    """A copy of the SFT adapter under another name is no DPO adapter."""
    copy = shutil.copytree(run / "sft" / "adapter", tmp_path / "mine")
    told = publish.push(copy, run=run, dry_run=tmp_path / "dry")
    assert told.repo == "{user}/SmolLM2-135M-Instruct-sft-lora"
    assert "pairs_train" not in (tmp_path / "dry" / "README.md").read_text()
    save_file({"w": np.zeros(3, np.float32)}, copy / "adapter_model.safetensors")
    with pytest.raises(FileProblem, match="is none of those in .* stage is not known"):
        publish.push(copy, run=run, dry_run=tmp_path / "other")


def test_a_merge_of_another_run_is_refused(run, tmp_path):
    """The card would tell of another base, other data and other figures."""
    change(run / "merged" / "merge.json", base="some/other")
    with pytest.raises(FileProblem, match="merged into 'some/other', but the recipe in .* names another base"):
        publish.push(run / "merged", dry_run=tmp_path / "dry")
    recipe = runs.read_yaml(run / "recipe.yaml")
    runs.write_text(run / "recipe.yaml", yaml.safe_dump(recipe | {"model": recipe["model"] | {"base": "models/mine"}}))
    change(run / "merged" / "merge.json", base="mine")  # as a merge names that folder
    assert publish.push(run / "merged", dry_run=tmp_path / "fine").repo == "{user}/mine-dpo"
    change(run / "merged" / "merge.json", adapters=[{"name": "dpo", "sha256": "ab" * 32}])
    with pytest.raises(FileProblem, match="is none of those in"):
        publish.push(run / "merged", dry_run=tmp_path / "dry")


def test_an_adapter_from_elsewhere_that_the_run_has_measured_is_accepted(run, tmp_path):
    """The lesson merges a shipped adapter into a run directory that has trained none."""
    digest = runs.file_digest(run / "dpo" / "adapter" / "adapter_model.safetensors")
    change(run / "merged" / "merge.json", adapters=[{"name": "dpo", "sha256": digest}])
    for stage in ("sft", "dpo"):
        shutil.rmtree(run / stage)
    (run / "reports").mkdir()
    runs.write_json(run / "reports" / "merge.json", {"metrics": {"adapter": digest}})
    assert publish.push(run / "merged", dry_run=tmp_path / "dry").repo == "{user}/SmolLM2-135M-Instruct-dpo"
    runs.write_json(run / "reports" / "merge.json", {"metrics": {"adapter": "ab" * 32}})
    with pytest.raises(FileProblem, match="is none of those in"):
        publish.push(run / "merged", dry_run=tmp_path / "other")


@pytest.mark.parametrize("text", ["{}", '{"adapters": []}', '"x"', "[", '{"base": 3}', "null"])
def test_a_damaged_merge_record_is_said(run, tmp_path, text):
    """A traceback names our code in place of the file."""
    (run / "merged" / "merge.json").write_text(text)
    with pytest.raises(FileProblem, match=r"merge\.json: damaged"):
        publish.push(run / "merged", dry_run=tmp_path / "dry")


def test_without_a_run_the_card_must_be_there(run, tmp_path):
    """A model without a card says nothing of its base, its data or its licence."""
    alone = tmp_path / "alone"
    (run / "merged").rename(alone)
    with pytest.raises(FileProblem, match=r"name the run, or put a README\.md there"):
        publish.push(alone, dry_run=tmp_path / "dry")
    told = publish.push(alone, run=run, dry_run=tmp_path / "dry")
    assert told.repo == "{user}/SmolLM2-135M-Instruct-dpo"
    (alone / "README.md").write_text("# mine\n")
    assert publish.push(alone, dry_run=tmp_path / "other").repo == "{user}/SmolLM2-135M-Instruct-tuned"


def test_a_folder_that_holds_no_model_is_refused(run, tmp_path):
    """Else a run directory is published in place of its model."""
    for folder in (run, run / "sft"):
        with pytest.raises(FileProblem, match="neither a merged model"):
            publish.push(folder, dry_run=tmp_path / "dry")
