"""Damaged input is refused before anything is written; what is written is whole or goes on.

Run alone: python -m pytest tests/test_merge_work.py
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from merge_kills import Limited
from safetensors.torch import load_file, save_file
from test_merge_exact import made_adapter, made_base
from transformers import AutoModelForCausalLM

from hermes_nb import merge
from hermes_nb.errors import FileProblem, RecipeProblem, ResourceProblem, RunProblem
from hermes_nb.merge import stored, work

Q = "model.layers.0.self_attn.q_proj"
LORA = f"base_model.model.{Q}.lora_A.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory, plain_tokenizer):
    """A base in several files and an adapter of it with a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    base = made_base(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="100KB")
    plain_tokenizer.save_pretrained(made_adapter(base, folder / "adapter", target_modules="all-linear"))
    return folder


@pytest.fixture
def here(made, tmp_path):
    """A copy of `made` that may be damaged."""
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


def merged(here, **how):
    how = {"onto": "original", "dtype": "float32", "max_shard_size": "100KB"} | how
    return merge.merge(str(here / "base"), here / "adapter", here / "out", **how)


def edit(file, change):
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def file_of(here, name):
    index = json.loads((here / "base" / stored.INDEX).read_text())
    return here / "base" / index["weight_map"][name]


def cut_shard(here):
    file = file_of(here, f"{Q}.weight")
    os.truncate(file, file.stat().st_size - 1000)


def missing_shard(here):
    file_of(here, f"{Q}.weight").unlink()


def flipped_index(here):
    path = here / "base" / stored.INDEX
    told = json.loads(path.read_text())
    others = [f for f in told["weight_map"].values() if f != told["weight_map"][f"{Q}.weight"]]
    told["weight_map"][f"{Q}.weight"] = others[0]
    path.write_text(json.dumps(told))


def broken_index(here):
    path = here / "base" / stored.INDEX
    path.write_bytes(path.read_bytes()[:50])


def missing_tensor(here):
    file = file_of(here, f"{Q}.weight")
    edit(file, lambda tensors: tensors.pop(f"{Q}.weight"))
    path = here / "base" / stored.INDEX
    told = json.loads(path.read_text())
    del told["weight_map"][f"{Q}.weight"]
    path.write_text(json.dumps(told))


def two_of_one(here):
    other = next(f for f in (here / "base").glob("*.safetensors") if f != file_of(here, f"{Q}.weight"))
    edit(other, lambda tensors: tensors.update({f"{Q}.weight": torch.ones(2, 2)}))


def wrong_shape(here):
    edit(file_of(here, f"{Q}.weight"), lambda tensors: tensors.update({f"{Q}.weight": torch.ones(32, 64)}))


def other_adapter(here):
    base = made_base(here / "other", hidden_size=128, intermediate_size=128)
    shutil.copyfile(
        made_adapter(base, here / "b", target_modules="all-linear") / "adapter_model.safetensors",
        here / "adapter" / "adapter_model.safetensors",
    )


def deeper_adapter(here):
    base = made_base(here / "other", num_hidden_layers=3)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(made_adapter(base, here / "b", target_modules="all-linear") / name, here / "adapter" / name)


def other_modules(here):
    path = here / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["query_key_value"]}))


def nan(here):
    def change(tensors):
        tensors[LORA][1, 3] = float("nan")

    edit(here / "adapter" / "adapter_model.safetensors", change)


def infinite(here):
    def change(tensors):
        tensors[LORA][0, 0] = float("inf")

    edit(here / "adapter" / "adapter_model.safetensors", change)


def lost_half(here):
    edit(here / "adapter" / "adapter_model.safetensors", lambda tensors: tensors.pop(LORA))


def left_over(here):
    more = {"base_model.model.model.layers.0.mlp.odd.lora_A.weight": torch.ones(2, 2)}
    edit(here / "adapter" / "adapter_model.safetensors", lambda tensors: tensors.update(more))


def cut_adapter(here):
    file = here / "adapter" / "adapter_model.safetensors"
    os.truncate(file, file.stat().st_size - 8)


def broken_settings(here):
    (here / "adapter" / "adapter_config.json").write_text("{")


def broken_config(here):
    (here / "base" / "config.json").write_text("[")


def no_config(here):
    (here / "base" / "config.json").unlink()


def quantized_base(here):
    path = here / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"load_in_4bit": True}}))


def list_config(here):
    (here / "base" / "config.json").write_text("[]")


def unknown_model(here):
    (here / "base" / "config.json").write_text('{"model_type": "nobody"}')


def broken_generation(here):
    (here / "base" / "generation_config.json").write_text("{")


def broken_tokenizer(here):
    (here / "adapter" / "tokenizer.json").write_text("{")


def odd_dtype(here):
    (here / "run.json").write_text('{"dtype": "fp16"}')


def long_tokenizer(here):
    path = here / "base" / "config.json"
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        edit(file_of(here, name), lambda tensors, name=name: tensors.update({name: tensors[name][:2].clone()}))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 2}))


DAMAGE = {
    list_config: "config.json: damaged",
    unknown_model: "no model can be built",
    broken_generation: "generation_config.json: damaged",
    broken_tokenizer: "not a whole model folder",
    odd_dtype: "says dtype 'fp16'",
    long_tokenizer: "the model has 2 ids",
    cut_shard: r"model-\d+-of-\d+\.safetensors: damaged",
    missing_shard: r"model-\d+-of-\d+\.safetensors: missing",
    flipped_index: re.escape(f"says that {Q}.weight lies in"),
    broken_index: "index.json: damaged",
    missing_tensor: re.escape(f"{Q}.weight is missing"),
    two_of_one: re.escape(f"{Q}.weight lies in model-"),
    wrong_shape: re.escape(f"{Q}.weight is (32, 64)"),
    other_adapter: r"lora_A\.weight is \(4, 128\), the base needs \(4, 64\)",
    deeper_adapter: r"layers\.2\..* has no place in the base",
    other_modules: "does not fit the base",
    nan: re.escape(LORA) + ".*not finite",
    infinite: re.escape(LORA) + ".*not finite",
    lost_half: re.escape(LORA) + " is missing",
    left_over: r"odd\.lora_A\.weight has no place",
    cut_adapter: "adapter_model.safetensors: damaged",
    broken_settings: "adapter_config.json: damaged",
    broken_config: "config.json: damaged",
    no_config: "config.json is missing",
    quantized_base: "quantized already",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_damaged_input_is_refused_by_name_before_anything_is_written(damage, here):
    """A merge that begins and fails leaves gigabytes; one that does not fail leaves a wrong model."""
    damage(here)
    before = sorted(here.iterdir())
    with pytest.raises((FileProblem, RecipeProblem), match=DAMAGE[damage]):
        merged(here)
    assert sorted(here.iterdir()) == before


def test_a_number_that_the_format_cannot_hold_is_refused_by_name(here):
    """fp16 ends at 65,504: a larger weight becomes infinite, and every answer with it."""

    def change(tensors):
        tensors["model.norm.weight"][0] = 1e5

    edit(file_of(here, "model.norm.weight"), change)
    with pytest.raises(FileProblem, match=r"model\.norm\.weight: holds 1e\+05, more than float16 can"):
        merged(here, dtype="float16")
    assert not (here / "out").exists()
    assert merged(here).is_dir()


def test_a_base_that_is_not_finite_is_refused_by_name(here):
    """One NaN in a layer is NaN in every answer."""

    def change(tensors):
        tensors[f"{Q}.weight"][0, 0] = float("nan")

    edit(file_of(here, f"{Q}.weight"), change)
    with pytest.raises(FileProblem, match=re.escape(f"{Q}.weight") + ".*not finite"):
        merged(here)


@pytest.mark.parametrize("size", ["abc", "2 apples"])
def test_a_size_that_is_none_is_refused(size, here):
    """A library's error names neither the key nor a remedy."""
    with pytest.raises(RecipeProblem, match="max_shard_size"):
        merged(here, max_shard_size=size)


def test_a_second_call_returns_what_stands_and_another_merge_is_not_overwritten(here):
    """A kill may fall between the last rename and the end of the process."""
    folder = merged(here)
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert merged(here) == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    for other in ({"dtype": "bfloat16"}, {"onto": "dequantized"}, {"max_shard_size": "2GB"}):
        with pytest.raises(FileProblem, match="exists already"):
            merged(here, **other)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(FileProblem, match="exists already"):
        merged(here)


def test_a_full_disk_says_what_is_missing_and_the_next_call_goes_on(here, monkeypatch):
    """Two finished files of five must not be written again once there is space."""
    folder = merged(here)
    sizes = [p.stat().st_size for p in sorted(folder.glob("*.safetensors"))]
    shutil.rmtree(folder)

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Limited, "left", sum(sizes[:2]) + 10)
    monkeypatch.setattr(Limited, "over", staticmethod(full))
    monkeypatch.setattr(stored, "open", lambda *args: Limited(open(*args)), raising=False)  # noqa: SIM115
    said = rf"the disk is full; {sum(sizes[2:]) / 1e6:,.1f} MB are still to be written.* goes on where it stopped"
    with pytest.raises(ResourceProblem, match=said):
        merged(here)
    assert not folder.exists()
    monkeypatch.undo()
    seen, write = [], stored.write
    monkeypatch.setattr(stored, "write", lambda path, *a: (seen.append(path.name), write(path, *a)))
    merged(here)
    assert len(seen) == len(sizes) - 2


def test_a_disk_that_fills_under_the_tokenizer_is_said_as_well(here, monkeypatch):
    """tokenizers raises a bare Exception; a traceback says nothing of how much is missing."""

    def full(*args):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(merge.weights, "_write_tokenizer", full)
    with pytest.raises(ResourceProblem, match="the disk is full"):
        merged(here)


def test_an_error_of_the_disk_is_not_swallowed(here, monkeypatch):
    """The system tells a failed write once: asked again, it says that all is well."""
    calls, fsync = [], os.fsync

    def failing(file):
        calls.append(file)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return fsync(file)

    monkeypatch.setattr(stored, "FLUSH", 1000)
    monkeypatch.setattr(stored.os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        stored.write(
            here / "x.safetensors", {"a": stored.Entry(None, "F32", (1000, 2))}, (torch.ones(500, 2) for _ in range(2))
        )
    assert not (here / "x.safetensors").exists()


def test_a_source_that_yields_too_little_is_said(here, monkeypatch):
    """A base that is fetched anew while it is merged would leave a file with a hole."""
    monkeypatch.setattr(work.sums, "values", lambda *a: iter(()))
    with pytest.raises(FileProblem, match="its source changed meanwhile"):
        merged(here)


def test_a_reader_that_is_stopped_leaves_no_thread_and_no_setting(here):
    """Ctrl-C in a notebook: the kernel lives on, and must not compute on one thread for the rest of the day."""
    import threading

    before, names = torch.get_num_threads(), set(threading.enumerate())

    def stop(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(here, watch=stop)
    assert torch.get_num_threads() == before
    assert not [t for t in set(threading.enumerate()) - names if t.is_alive()]
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [before]


def test_space_is_asked_for_before_the_first_byte(here, monkeypatch):
    """A disk that fills after ten minutes is a lost merge."""
    asked = []

    def small(folder, gigabytes):
        asked.append(gigabytes)
        raise ResourceProblem("small")

    monkeypatch.setattr(work, "need_disk", small)
    with pytest.raises(ResourceProblem, match="small"):
        merged(here)
    assert not list((here / ".out.work").glob("*.safetensors"))
    monkeypatch.undo()
    size = sum(p.stat().st_size for p in merged(here).glob("*.safetensors"))
    assert asked == [pytest.approx((size + work.MARGIN) / 1e9)]


def test_a_changed_template_is_another_merge(here):
    """The folder that stands there would answer in the template of before."""
    merged(here)
    with open(here / "adapter" / "chat_template.jinja", "a") as file:
        file.write(" ")
    with pytest.raises(FileProblem, match="exists already"):
        merged(here)


def test_other_versions_find_the_merge_that_stands(here, monkeypatch):
    """An upgrade must not ask for a folder of 14.5 GB to be deleted."""
    folder = merged(here)
    monkeypatch.setattr(merge.weights.runs, "versions", lambda: {"torch": "9.9"})
    assert merged(here) == folder


def test_a_link_is_followed(here):
    """Colab users link `merged` to their Drive."""
    (here / "elsewhere").mkdir()
    (here / "out").symlink_to(here / "elsewhere")
    assert (merged(here) / "config.json").is_file()
    assert (here / "elsewhere" / "config.json").is_file()
    assert (here / "out").is_symlink()


def test_files_of_another_merge_are_not_taken_over(here, monkeypatch):
    """A work folder that another setting has left holds other numbers under the same names."""
    monkeypatch.setattr(merge.weights, "_write_tokenizer", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merged(here, onto="dequantized")
    monkeypatch.undo()
    ours = {p.name: p.read_bytes() for p in merged(here).iterdir()}
    shutil.rmtree(here / "out")
    assert ours == {p.name: p.read_bytes() for p in merged(here).iterdir()}


def test_two_processes_do_not_merge_into_one_folder(here):
    """The second would rename the first one's half."""
    with FileLock(here / ".out.lock"), pytest.raises(RunProblem, match="another process"):
        merged(here)


def test_progress_counts_bytes_to_the_end(here):
    """A bar that ends at 97 % is not believed at 50 %."""
    told = []
    folder = merged(here, watch=lambda done, total, name: told.append((done, total, name)))
    assert [d for d, _, _ in told] == sorted(d for d, _, _ in told)
    assert (
        told[-1][0] == told[-1][1] == sum(t.nbytes for f in folder.glob("*.safetensors") for t in load_file(f).values())
    )
    assert len({name for _, _, name in told}) == len(told)


def test_fifty_kills_and_the_same_bytes(made, tmp_path):
    """A merge that is killed at any byte or moment ends, with one call more, as one that nobody disturbed."""
    shutil.copytree(made, tmp_path / "w")
    script = Path(__file__).with_name("merge_kills.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "w"), "50"], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    killed, resumed = re.match(r"50 runs, (\d+) killed, (\d+) of them went on", done.stdout.splitlines()[-1]).groups()
    assert int(killed) >= 40
    assert int(resumed) >= 10
