"""Run alone: python -m pytest tests/test_pipeline.py

The whole way, SFT -> DPO -> merge -> evidence: on a tiny random model in seconds, on the built-in model where `slow`.
"""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hermes_nb import cli, evaluate, history, models, pipeline, recipes, runs
from hermes_nb.errors import DataProblem, FileProblem, RecipeProblem, ResourceProblem, RunProblem


@pytest.fixture
def whole(recipe):
    """The course on the tiny model, with its real rows cut to what the tiny model's context holds."""
    return replace(recipe, sft=replace(recipe.sft, max_length=480), dpo=replace(recipe.dpo, max_length=480))


def test_raw_rows_become_a_merged_model(whole, tmp_path):
    """Every stage hands the next a folder; run.json says what happened."""
    said = []
    meta = pipeline.run(whole, tmp_path, say=said.append)
    assert [line.split("] ")[1] for line in said if line.startswith("[")] == list(pipeline.STAGES)
    for path in ("sft/adapter", "dpo/adapter", "merged", "run.json", "recipe.yaml", "reports/evaluate.json",
                 "reports/sft.png", "reports/dpo.png"):  # fmt: skip
        assert (tmp_path / path).exists(), path
    assert list(meta["stages"]) == ["format", "sft", "dpo", "merge", "evaluate"]
    counts = meta["stages"]["format"]["metrics"]
    assert counts["rows"] == counts["kept"] + counts["dropped"] == 520
    assert set(evaluate.report(tmp_path)) == {"base", "sft", "dpo", "merged"}
    a, b = (load_file(tmp_path / s / "adapter" / "adapter_model.safetensors") for s in ("sft", "dpo"))
    assert {t.dtype for t in b.values()} == {torch.float32}
    assert models.moved(a, b) > 0.9

    # a second call runs nothing again
    stamps = {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("run.json", ".lock")
    }
    pipeline.run(whole, tmp_path)
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_a_recipe_without_sft_starts_dpo_on_the_base(whole, tmp_path):
    """NeuralHermes: the base with the adapter off is the reference."""
    direct = replace(whole, sft=None)
    meta = pipeline.run(direct, tmp_path, ["format", "dpo", "merge"])
    assert list(meta["stages"]) == ["format", "dpo", "merge"]
    assert runs.Run(tmp_path / "dpo").meta["parent"] is None


def test_stages_can_be_run_one_by_one(whole, tmp_path):
    """A missing earlier stage is said by name."""
    with pytest.raises(FileProblem, match="run the format stage first"):
        pipeline.run(whole, tmp_path, ["sft"])
    pipeline.run(whole, tmp_path, ["format"])
    with pytest.raises(FileProblem, match="starts DPO from it"):
        pipeline.run(whole, tmp_path, ["dpo"])
    with pytest.raises(FileProblem, match="no adapter here yet"):
        pipeline.run(whole, tmp_path, ["merge"])
    with pytest.raises(RecipeProblem, match="no stage 'train'"):
        pipeline.run(whole, tmp_path, ["train"])


def test_a_run_directory_of_another_recipe_is_refused(whole, tmp_path):
    """One folder, one recipe: else the table mixes two experiments."""
    pipeline.run(whole, tmp_path, ["format"])
    with pytest.raises(RunProblem, match="different: seed"):
        pipeline.run(replace(whole, seed=7), tmp_path, ["format"])
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["seed"] == 0


def test_what_is_merged_and_evaluated_may_change_in_the_same_folder(whole, tmp_path):
    """Another number of questions must not cost another training."""
    pipeline.run(whole, tmp_path, ["format", "sft", "dpo", "evaluate"])
    stamp = (tmp_path / "dpo" / "run.json").stat().st_mtime_ns
    fewer = replace(whole, evaluate=replace(whole.evaluate, questions=2))
    pipeline.run(fewer, tmp_path, ["evaluate"])
    assert evaluate.report(tmp_path)["dpo"]["sampled"]["card"]["n"] == 2
    assert (tmp_path / "dpo" / "run.json").stat().st_mtime_ns == stamp


def test_a_failed_request_does_not_spoil_the_folder(whole, tmp_path):
    """After a typo the mended command must run."""
    wrong = replace(whole, dpo=replace(whole.dpo, train=(recipes.Source("orca_dpo_pairs", "gone.jsonl"),)))
    with pytest.raises(FileProblem, match=r"gone\.jsonl"):
        pipeline.run(wrong, tmp_path)
    assert pipeline.run(whole, tmp_path, ["format"])["stages"]["format"]["metrics"]["rows"] == 520


def test_a_merge_that_does_not_fit_is_said_and_the_rest_is_kept(whole, tmp_path, monkeypatch):
    """Hours of training on a small GPU must not end without evidence because the last step is too large."""
    from hermes_nb.merge import work

    def too_small(*args):
        raise ResourceProblem("14.5 GB needed, 3.0 GB free")

    monkeypatch.setattr(work, "need_disk", too_small)
    with pytest.raises(ResourceProblem, match=r"14\.5 GB"):
        pipeline.run(whole, tmp_path)
    assert set(evaluate.report(tmp_path)) == {"base", "sft", "dpo"}
    assert not (tmp_path / "merged").exists()


def test_rows_that_are_all_dropped_are_said(whole, tmp_path):
    """Training on nothing fails deep in a library, without a word on why."""
    with pytest.raises(DataProblem, match=r"nothing is left to use: 60 rows in, 0 kept"):
        pipeline.run(replace(whole, sft=replace(whole.sft, max_length=5)), tmp_path)


def test_dpo_can_start_from_an_adapter_elsewhere(whole, tmp_path):
    """A shipped adapter, or another run's, in place of one's own SFT."""
    pipeline.run(whole, tmp_path / "a", ["format", "sft"])
    adapter = tmp_path / "a" / "sft" / "adapter"
    pipeline.run(whole, tmp_path / "b", ["format", "dpo"], start=adapter)
    assert runs.Run(tmp_path / "b" / "dpo").meta["parent"] == runs.file_digest(adapter / "adapter_model.safetensors")


def test_the_merge_measures_from_the_start_that_was_named(whole, tmp_path):
    """DPO from an adapter elsewhere, measured from one's own SFT or the base, is no reward of DPO."""
    pipeline.run(whole, tmp_path / "a", ["format", "sft"])
    adapter = tmp_path / "a" / "sft" / "adapter"
    pipeline.run(whole, tmp_path / "b", ["format", "dpo"], start=adapter)
    with pytest.raises(FileProblem, match="name the folder that training started from"):
        pipeline.run(whole, tmp_path / "b", ["merge"])
    pipeline.run(whole, tmp_path / "b", ["merge"], start=runs.Run(tmp_path / "a" / "sft"))
    assert (tmp_path / "b" / "merged" / "merge.json").is_file()


def test_a_merged_model_that_the_report_does_not_tell_of_is_made_anew(whole, tmp_path):
    """A kill, or another merge into the same folder: figures of one model beside the weights of another."""
    pipeline.run(whole, tmp_path, ["format", "sft", "dpo", "merge"])
    record = tmp_path / "merged" / "merge.json"
    made = runs.read_json(record)
    for wrong in ({"onto": "elsewhere"}, {"adapters": [{"name": "x", "sha256": "0"}]}):
        runs.write_json(record, made | wrong)
        pipeline.run(whole, tmp_path, ["merge"])
        assert runs.read_json(record) == made
    stamp = record.stat().st_mtime_ns
    pipeline.run(whole, tmp_path, ["merge"])
    assert record.stat().st_mtime_ns == stamp


def test_a_changed_adapter_is_merged_and_evaluated_anew(whole, tmp_path):
    """A report of the adapter before this one is worse than none."""
    pipeline.run(whole, tmp_path, ["format", "sft", "dpo", "merge"])
    first = json.loads((tmp_path / "reports" / "merge.json").read_text())
    import shutil

    shutil.rmtree(tmp_path / "dpo")
    hot = replace(whole, dpo=replace(whole.dpo, learning_rate=0.01))
    (tmp_path / "recipe.yaml").unlink()
    pipeline.run(hot, tmp_path, ["dpo", "merge"])
    second = json.loads((tmp_path / "reports" / "merge.json").read_text())
    assert first["key"] != second["key"]
    assert first["metrics"]["kl_without_adapter"] != second["metrics"]["kl_without_adapter"]


def test_nothing_that_leaves_holds_a_path_or_a_token(whole, tmp_path, monkeypatch):
    """Adapter and merged model are what people publish."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_this_test")
    pipeline.run(whole, tmp_path, ["format", "sft", "dpo", "merge"])
    for folder in ("sft/adapter", "dpo/adapter", "merged"):
        for file in (tmp_path / folder).rglob("*"):
            assert file.suffix in (".json", ".safetensors", ".jinja"), file
            content = file.read_bytes()
            assert str(tmp_path).encode() not in content, file
            assert whole.model.base.encode() not in content, file
            assert b"canary" not in content, file


@pytest.mark.slow
def test_the_course_teaches_what_it_says_on_the_builtin_model(tmp_path):
    """SFT writes both styles, DPO the card; the merged model is the trained one."""
    recipe = recipes.load(
        "course", "tiny", overrides={"evaluate": {"questions": 30, "samples": 1, "greedy_questions": 0}}
    )
    meta = pipeline.run(recipe, tmp_path)
    found = evaluate.report(tmp_path)
    card = {name: scores["sampled"]["card"]["value"] for name, scores in found.items()}
    padded = {name: scores["sampled"]["padded"]["value"] for name, scores in found.items()}
    assert card["base"] == 0.0
    assert 0.1 <= card["sft"] <= 0.8
    assert padded["sft"] >= 0.1
    assert card["dpo"] >= 0.8
    assert padded["dpo"] <= 0.1
    assert card["merged"] >= 0.7
    assert meta["stages"]["dpo"]["metrics"]["moved"] > 0.99
    assert found["dpo"]["held_out"]["accuracy"]["value"] > 0.7
    merge = meta["stages"]["merge"]["metrics"]
    assert merge["kl"] < 0.02 < merge["kl_without_adapter"]
    assert merge["top1"] > 0.9
    assert history.series(history.load(tmp_path / "dpo"), "margin").iloc[0] == 0.0


@pytest.mark.long
def test_neuralhermes_leaves_a_model_that_stops_by_itself(tmp_path):
    """DPO straight on the chat model: three of four plain questions get an answer that ends within 160 tokens."""
    from transformers import pipeline as plain

    assert cli.main(["run", "neuralhermes", "--scale", "tiny", "--out", str(tmp_path / "n")]) == 0
    found = evaluate.report(tmp_path / "n")
    assert not (tmp_path / "n" / "sft").exists()
    assert found["merged"]["plain"]["stops"]["value"] >= 0.75 > found["base"]["plain"]["stops"]["value"]
    chat = plain("text-generation", model=str(tmp_path / "n" / "merged"))
    answer = chat([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=160)
    assert "Paris" in answer[0]["generated_text"][-1]["content"]
