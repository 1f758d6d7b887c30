"""Run alone: python -m pytest tests/test_runtime.py"""

import subprocess
import sys

import pytest

from hermes_nb import errors, runtime


@pytest.mark.parametrize(
    ("device", "capability", "native", "dtype"),
    [
        ("cuda", (7, 5), False, "float16"),
        ("cuda", (8, 0), True, "bfloat16"),
        ("cuda", (9, 0), True, "bfloat16"),
        ("cpu", None, True, "bfloat16"),
        ("cpu", None, False, "float32"),
    ],
)
def test_a_number_format_is_chosen_with_its_reason(device, capability, native, dtype):
    """A T4 claims bf16 and emulates it: bf16 there runs, slowly, without an error."""
    chosen, reason = runtime.choose_dtype(device, capability, native)
    assert chosen == dtype
    assert "bf16" in reason


def test_bf16_is_asked_for_without_emulation(monkeypatch):
    """`is_bf16_supported()` answers True on a T4; only `including_emulation=False` tells the truth."""
    import torch

    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = type("card", (), {"name": "Tesla T4", "major": 7, "minor": 5, "total_memory": 15 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **kw: asked.update(kw) or kw.get("including_emulation", True)
    )
    monkeypatch.setattr(runtime, "_hardware", runtime._hardware.__wrapped__)
    here = runtime.machine()
    assert asked == {"including_emulation": False}
    assert (here.dtype, here.scale, here.capability) == ("float16", "t4", "7.5")


@pytest.mark.parametrize(
    ("device", "memory", "scale"), [("cpu", 500, "tiny"), ("cuda", 15, "t4"), ("cuda", 24, "t4"), ("cuda", 40, "a100")]
)
def test_the_scale_follows_the_machine(device, memory, scale, monkeypatch):
    """A request for an A100 may silently give a smaller card: detect, never assume."""
    monkeypatch.delenv("HERMES_SCALE", raising=False)
    assert runtime.choose_scale(device, memory)[0] == scale


def test_the_scale_can_be_set_and_a_wrong_one_is_named(monkeypatch):
    """A typo in HERMES_SCALE must not fall back to something else."""
    monkeypatch.setenv("HERMES_SCALE", "t4")
    assert runtime.choose_scale("cpu", 8) == ("t4", "set by HERMES_SCALE")
    monkeypatch.setenv("HERMES_SCALE", "tinny")
    with pytest.raises(errors.RecipeProblem, match="tiny, t4, a100"):
        runtime.choose_scale("cpu", 8)


@pytest.mark.parametrize(
    ("name", "place"), [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle"), (None, "local")]
)
def test_the_host_is_told_from_its_environment(name, place, monkeypatch):
    """Colab and Kaggle need other folders and other advice."""
    for variable in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "x")
    assert runtime.place() == place


def test_importing_the_package_loads_no_torch():
    """A slow import makes every command and every notebook start slowly."""
    code = "import sys, time; t = time.perf_counter(); import hermes_nb, hermes_nb.runtime, hermes_nb.cli\n"
    code += "assert not {'torch', 'transformers', 'trl', 'datasets', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    code += "assert time.perf_counter() - t < 1.0"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_token_is_found_and_never_shown(monkeypatch, capsys):
    """A token in the output of a committed notebook is a leaked token."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_this_test")
    assert runtime.token() == "hf_canary_of_this_test"
    runtime.announce()
    from hermes_nb import cli

    assert cli.main(["doctor"]) == 0
    assert "canary" not in "".join(capsys.readouterr())


def test_too_little_memory_is_said_before_anything_is_loaded():
    """A load that dies of memory after minutes says nothing about what to do."""
    with pytest.raises(errors.ResourceProblem, match="--scale tiny"):
        runtime.need_memory(10_000, "a huge model")


def test_too_little_disk_is_said(tmp_path):
    """A half-written model is worse than none."""
    with pytest.raises(errors.ResourceProblem, match="free"):
        runtime.need_disk(tmp_path, 1e9)


def test_a_missing_file_names_both_places(tmp_path):
    """Users look in one place; files are looked up in two."""
    with pytest.raises(errors.FileProblem, match="nor in data_samples"):
        runtime.find_file("nothing_here.jsonl")
    assert runtime.find_file("pairs_train.jsonl").is_file()


def test_runs_go_where_they_are_told(monkeypatch, tmp_path):
    """`make course` starts from an empty folder, whatever runs a user has."""
    monkeypatch.setenv("HERMES_RUNS", str(tmp_path))
    assert runtime.runs_dir() == tmp_path


def test_freed_memory_is_given_back():
    """After a generation glibc keeps gigabytes in pieces, and the next model no longer fits beside them."""
    import psutil

    resident = psutil.Process().memory_info().rss
    pieces = [bytearray(100_000) for _ in range(2000)]  # below the size that is mapped on its own
    keep = pieces[::20]
    del pieces
    runtime.give_back()
    assert psutil.Process().memory_info().rss - resident < 60e6
    assert len(keep) == 100
