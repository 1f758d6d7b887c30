"""Run alone: python -m pytest tests/test_runs.py"""

import json
import subprocess
import sys

import pytest

from hermes_nb import recipes, runs
from hermes_nb.errors import FileProblem, RunProblem


def make(out, name="dpo", key="k"):
    with runs.stage(out, name, key, recipe="course") as work:
        (work / "adapter").mkdir()
        (work / "adapter" / "weights").write_bytes(b"12345")
        runs.write_json(work / "stage.json", {"metrics": {"loss": 0.1}})
    return runs.Run(out / name)


def test_a_finished_stage_is_whole(tmp_path):
    """run.json says what, on what, with which versions, and how long; the manifest lists every file."""
    run = make(tmp_path)
    assert run.metrics == {"loss": 0.1}
    assert {"key", "recipe", "seconds", "device", "dtype", "dtype_reason", "versions"} <= set(run.meta)
    manifest = json.loads((run.path / "manifest.json").read_text())["files"]
    assert set(manifest) == {"run.json", "adapter/weights"}
    assert manifest["adapter/weights"]["bytes"] == 5


def test_a_stage_that_fails_leaves_nothing_with_its_name(tmp_path):
    """A half-written adapter that loads is worse than none."""
    with pytest.raises(FileExistsError), runs.stage(tmp_path, "dpo", "k") as work:  # noqa: PT012
        (work / "adapter").mkdir()
        (work / "adapter").mkdir()
    assert [p.name for p in tmp_path.iterdir()] in ([], [".lock"])


def test_a_killed_stage_is_not_taken_for_a_finished_one(tmp_path):
    """A kill leaves no time for clean-up: only the final name may mean whole."""
    code = (
        "import os, signal, sys; from pathlib import Path; from hermes_nb import runs\n"
        "with runs.stage(Path(sys.argv[1]), 'dpo', 'k') as work:\n"
        "    (work / 'part').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert runs.finished(tmp_path, "dpo", "k") is None
    assert make(tmp_path).adapter.is_dir()


def test_a_finished_stage_is_found_again_and_not_mistaken(tmp_path):
    """Another recipe in the same folder must not be answered with this one's adapter."""
    make(tmp_path)
    assert runs.finished(tmp_path, "dpo", "k").path == tmp_path / "dpo"
    assert runs.finished(tmp_path, "sft", "k") is None
    with pytest.raises(RunProblem, match="another recipe"):
        runs.finished(tmp_path, "dpo", "other")


@pytest.mark.parametrize("damage", ["change", "cut", "delete"])
def test_a_damaged_stage_is_refused_by_file(damage, tmp_path):
    """safetensors has no checksum: a flipped byte loads and trains on."""
    file = make(tmp_path).path / "adapter" / "weights"
    {"change": lambda: file.write_bytes(b"12346"), "cut": lambda: file.write_bytes(b"1"), "delete": file.unlink}[
        damage
    ]()
    with pytest.raises(FileProblem, match="weights"):
        runs.finished(tmp_path, "dpo", "k")


def test_two_processes_do_not_share_a_run(tmp_path):
    """Two trainings into one folder overwrite each other's checkpoints."""
    with runs.locked(tmp_path), pytest.raises(RunProblem, match="another process"), runs.locked(tmp_path):
        pass


def test_a_file_where_a_folder_is_needed_is_said(tmp_path):
    """--out naming a file."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunProblem, match="is a file"), runs.locked(tmp_path / "taken"):
        pass


def test_a_stage_depends_on_what_comes_before_it_only():
    """A new beta must not train SFT again; a new SFT rate must."""
    base, beta, rate = (
        recipes.load("course", "tiny", overrides=o).to_dict()
        for o in ([], ["dpo.beta=0.5"], ["sft.learning_rate=1e-4"])
    )
    for stage, changed in (("format", ()), ("sft", ("rate",)), ("dpo", ("beta", "rate"))):
        assert (runs.recipe_key(base, stage) != runs.recipe_key(beta, stage)) == ("beta" in changed)
        assert (runs.recipe_key(base, stage) != runs.recipe_key(rate, stage)) == ("rate" in changed)


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A reader sees the old file or the new one."""
    file = tmp_path / "a.json"
    runs.write_json(file, {"a": 1})
    monkeypatch.setattr(runs.os, "fsync", lambda number: 1 / 0)  # the disk fills up in mid-write
    with pytest.raises(ZeroDivisionError):
        runs.write_json(file, {"a": 2})
    assert runs.read_json(file) == {"a": 1}
    with pytest.raises(FileProblem, match="missing"):
        runs.read_json(tmp_path / "b.json")
