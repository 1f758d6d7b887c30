"""The streaming merge measured beside others. Run alone: python -m pytest tests/test_bench_merging.py"""

import json
from types import SimpleNamespace

import pytest

from hermes_nb import bench, cli, roofline
from hermes_nb.bench import checkpoints, merging
from hermes_nb.errors import ResourceProblem
from hermes_nb.merge import stored

TIED = roofline.Shape("small", 128, 2, 64, 256, 49152, True)  # the vocabulary is that of the tokenizer beside it
UNTIED = roofline.Shape("small, untied", 128, 2, 64, 256, 49152, False)


def rounds(ours=(3.0, 5.0), peak=0.5):
    """Two rounds: `cp` takes 2 s, the quantize call 8 s of 11; seconds onto the original and its peak are given."""
    return [
        {
            "cp": {"seconds": 2.0},
            "original": {"seconds": seconds, "gb": peak, "quantize": 0.0, "curve": [[1.0, 0.5, 7]]},
            "dequantized": {"seconds": 11.0, "gb": 0.75, "quantize": 8.0, "curve": []},
            "peft": {"seconds": 12.0, "gb": 2.0, "quantize": 0.0, "curve": []},
        }
        for seconds in ours
    ]


def test_ratios_by_hand():
    """3 / 2 and 5 / 2 over cp, median 2, which just holds; 11 / (2 + 8); PEFT 12 / 3 and 12 / 5, and 2 / 0.5 of memory.

    The peak is that of the larger merge: 0.75 GB.
    """
    told = merging.told(rounds(), TIED, 2, "")
    assert told["ratios"]["onto the original over cp"] == {"median": 2.0, "min": 1.5, "max": 2.5}
    assert told["ratios"]["onto the dequantized over cp and quantizing"]["median"] == 1.1
    assert told["ratios"]["peak memory, GB"]["median"] == 0.75
    assert told["ratios"]["PEFT's seconds over ours"] == {"median": 3.2, "min": 2.4, "max": 4.0}
    assert told["ratios"]["PEFT's peak over ours"]["median"] == 4.0
    assert told["sides"]["original"] == {"seconds": 4.0, "gb": 0.5, "quantize": 0.0}
    assert told["sides"]["cp"] == {"seconds": 2.0}
    assert told["curve"] == [[1.0, 0.5, 7]]
    assert told["misses"] == []
    assert json.loads(json.dumps(told))["ratios"] == told["ratios"]


def test_a_missed_bar_is_named_and_ends_with_status_1(monkeypatch, capsys, tmp_path):
    """A benchmark that always passes is an advertisement; figures and table are written all the same."""
    told = merging.told(rounds(ours=(5.0, 7.0), peak=2.0), TIED, 2, "")
    assert told["misses"] == ["peak memory, GB", "onto the original over cp"]
    monkeypatch.setattr(bench, "merge", lambda size, repeats: told)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench merge: m.json -->\nold\n<!-- /bench merge -->\nafter\n")
    asked = ["bench", "merge", "--json", str(tmp_path / "m.json"), "--readme", str(readme)]
    assert cli.main(asked) == 1
    out = capsys.readouterr().out
    assert out.count("MISSED") == 2
    assert out.count("holds") == 1
    assert json.loads((tmp_path / "m.json").read_text())["misses"] == told["misses"]
    head, table, foot = readme.read_text().partition(bench.merging_markdown(told))
    assert (head, foot) == ("before\n<!-- bench merge: m.json -->\n", "\n<!-- /bench merge -->\nafter\n")
    assert "| onto the original over cp | 3.00 (2.50 to 3.50, promised at most 2) |" in table
    assert "| onto the dequantized | 11.0 s, 0.75 GB, 8.0 s of it quantizing |" in table


def test_a_side_that_is_left_out_is_told_with_its_reason():
    """A missing row reads as if nobody had thought of it; the other size keeps its own column."""
    every = [merging.told(rounds(), TIED, 2, ""), merging.told(rounds()[:1], UNTIED, 1, "needs about 22 GB")]
    for found in every[1]["sides"], every[1]["ratios"]:
        for name in [name for name in found if "peft" in name.lower()]:
            found.pop(name)
    assert "peft is left out: needs about 22 GB" in bench.merging_text(every[1])
    table = bench.merging_markdown(*every).splitlines()
    assert table[0] == "| measured | small, 0.0 GB, 2 repeats | small, untied, 0.0 GB, once |"
    assert "| PEFT's peak over ours | 4.00 (4.00 to 4.00) | left out |" in table
    assert "| PEFT's merge | 12.0 s, 2.00 GB | left out |" in table
    assert (
        "| onto the original over cp | 2.00 (1.50 to 2.50, promised at most 2) | 1.50 (promised at most 2) |" in table
    )
    assert table[-1].endswith("small, untied without PEFT's merge: needs about 22 GB.")


def test_peft_is_left_out_where_memory_does_not_reach(monkeypatch):
    """The system would end the process, or the machine would swap for hours; its figures are not there then."""
    monkeypatch.setattr(merging.psutil, "virtual_memory", lambda: SimpleNamespace(available=10e9))
    assert merging._too_large(14.5) == "needs about 22 GB, 10 GB are free"
    assert merging._too_large(2.2) == ""
    without = [{kind: side for kind, side in found.items() if kind != "peft"} for found in rounds()]
    told = merging.told(without, UNTIED, 2, "needs about 22 GB, 10 GB are free")
    assert told["left_out"] == {"peft": "needs about 22 GB, 10 GB are free"}
    assert list(told["ratios"]) == list(merging.BARS)


def test_what_cannot_be_measured_is_said_before_anything_is_written(monkeypatch, capsys, tmp_path):
    """One sentence with the next step and status 2: no size of that name, another system than Linux."""
    monkeypatch.setattr(bench, "merge", lambda size, repeats: merging.merging("13b", repeats, folder=tmp_path))
    assert cli.main(["bench", "merge"]) == 2
    assert "no size '13b'; there are 1b, 7b" in capsys.readouterr().err
    monkeypatch.setattr(merging, "STATUS", tmp_path / "status")
    with pytest.raises(ResourceProblem, match="measure on Linux"):
        merging.merging("1b", 1, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_fails_says_why_and_leaves_nothing(monkeypatch, tmp_path):
    """Its last line is the reason; half a model on the disk would be counted as the next side's."""
    fails = "import sys, pathlib; pathlib.Path(sys.argv[4]).mkdir(); sys.exit('no such thing')"
    dies = "import os; os._exit(9)"
    for code, said in ((fails, "peft ended with status 1: no such thing"), (dies, "status 9: no word")):
        monkeypatch.setattr(merging, "CHILD", code)
        with pytest.raises(ResourceProblem, match=said):
            merging._measured("peft", tmp_path, tmp_path, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_the_checkpoints_are_a_model_and_an_adapter_of_it(shape, tmp_path):
    """Plain transformers and PEFT load every tensor, none is left over: else something else would be measured."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = checkpoints.make_base(tmp_path / "base", shape)
    adapter = checkpoints.make_adapter(tmp_path / "adapter", shape, rank=4)
    model, info = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, output_loading_info=True)
    assert not any(info.values()), info
    assert sum(p.numel() for p in model.parameters()) == roofline.parameters(shape)
    assert model.config.tie_word_embeddings == shape.tied
    assert len(AutoTokenizer.from_pretrained(base)) <= shape.vocab
    plain = model.model.layers[1].mlp.up_proj.weight.detach().float()
    tuned = PeftModel.from_pretrained(model, adapter)
    held, loaded = load_file(adapter / "adapter_model.safetensors"), get_peft_model_state_dict(tuned)
    assert held.keys() == loaded.keys()
    assert all(torch.equal(held[key], loaded[key].float()) for key in held)
    delta = tuned.base_model.model.model.layers[1].mlp.up_proj.get_delta_weight("default")
    assert 0.001 < delta.norm() / plain.norm() < 0.01  # sizes of 1/1,000 need layers as wide as a real model's


def test_a_large_checkpoint_is_cut_into_files_with_an_index(tmp_path, monkeypatch):
    """As published models of 7B are: a merge that reads one file alone would not show its memory."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(checkpoints, "SHARD", 300_000)
    base = checkpoints.make_base(tmp_path / "base", UNTIED)
    index = json.loads((base / stored.INDEX).read_text())["weight_map"]
    files = sorted(p.name for p in base.glob("*.safetensors"))
    assert sorted(set(index.values())) == files
    assert len(files) > 3
    for name in files:
        sizes = [entry.size for entry in stored.entries(base / name).values()]
        assert sum(sizes) <= 300_000 or len(sizes) == 1
    _, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.slow
def test_a_small_model_is_measured_from_end_to_end(tmp_path):
    """All sides, each with its own memory; the curve ends when every byte is written; nothing is left on the disk."""
    told = bench.merge(shape=TIED, repeats=1, folder=tmp_path)
    assert list(told["sides"]) == ["cp", "original", "dequantized", "peft"]
    assert all(side["seconds"] > 0 for side in told["sides"].values())
    assert 0 < told["sides"]["dequantized"]["quantize"] < told["sides"]["dequantized"]["seconds"]
    assert told["sides"]["original"]["quantize"] == 0
    assert 0.1 < told["ratios"]["peak memory, GB"]["median"] <= merging.BARS["peak memory, GB"][1]
    assert "peak memory, GB" not in told["misses"]
    assert told["curve"][-1][2] == 2 * roofline.parameters(TIED)
    assert [at for *_, at in told["curve"]] == sorted(at for *_, at in told["curve"])
    assert list(tmp_path.iterdir()) == []
