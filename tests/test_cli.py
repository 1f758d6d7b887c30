"""Run alone: python -m pytest tests/test_cli.py"""

import json
import subprocess
import sys
from unittest.mock import create_autospec

import pytest
from test_publish_push import made_model, small_run

from hermes_nb import bench, cli, merge


@pytest.fixture(scope="module")
def small_model(tiny_base, tmp_path_factory):
    """Adapter and merged model, made once."""
    return made_model(tiny_base, tmp_path_factory.mktemp("small"))


def fails(arguments, capsys):
    """The one sentence on stderr of a request that cannot be served."""
    assert cli.main(arguments) == 2
    out = capsys.readouterr()
    assert out.err.startswith("hermes_nb: ")
    assert out.err.count("\n") == 1
    return out.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere"], "no recipe 'nowhere'"),
        (["run", "course", "--scale", "tiny", "--variant", "as_published"], "no variant"),
        (["run", "course", "--scale", "tiny", "--set", "dpo.betta=1"], "did you mean 'beta'"),
        (["run", "course", "--scale", "tiny", "--stages", "train"], "no stage 'train'"),
        (
            ["run", "course", "--scale", "tiny", "--set", "dpo.train=[{source: orca_dpo_pairs, path: gone.jsonl}]"],
            "gone.jsonl",
        ),
        (["run", "course", "--scale", "tiny", "--set", "model.base=no-such/model"], "--scale tiny"),
        (["evaluate", "nowhere"], "no recipe here"),
        (["merge", "builtin", "nowhere", "out"], "no adapter here"),
        (["export", "nowhere"], "give a run directory"),
        (["export", "nowhere", "--push", "--to", "x"], "give either --to or --push"),
        (["course", "99_nothing"], "no notebook"),
        (["estimate"], "name a recipe (course"),
        (["estimate", "nowhere"], "no recipe 'nowhere'"),
        (["estimate", "neuralhermes", "--gpu", "a1000"], "no GPU 'a1000'; there are a100-40"),
        (["estimate", "neuralhermes", "--set", "model.base=no-such/model"], "sizes of 'no-such/model'"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    """What, where and the next step; exit status 2; nothing half-written."""
    monkeypatch.chdir(tmp_path)
    assert said in fails(arguments + (["--out", "r"] if arguments[0] == "run" else []), capsys)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_wrong_column_is_said_with_file_and_row(tmp_path, capsys):
    """The commonest mistake with one's own data."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "Q", "chosen": "a"}) + "\n")
    source = f"dpo.train=[{{source: orca_dpo_pairs, path: {tmp_path / 'p.jsonl'}}}]"
    error = fails(
        ["run", "course", "--scale", "tiny", "--stages", "format", "--set", source, "--out", str(tmp_path / "r")],
        capsys,
    )
    assert "p.jsonl, row 0: column 'system' is missing" in error
    assert not (tmp_path / "r" / "format").exists()


def test_too_little_memory_is_said(tmp_path, capsys):
    """A 7B model on a small machine."""
    arguments = ["run", "course", "--scale", "tiny", "--set", "needs_gb=10000", "--out", str(tmp_path / "r")]
    assert "needs about 10000 GB" in fails(arguments, capsys)
    assert not (tmp_path / "r" / "sft").exists()


def test_a_run_of_another_recipe_is_said(tmp_path, capsys):
    """--out given twice."""
    base = ["run", "course", "--scale", "tiny", "--stages", "format", "--out", str(tmp_path / "r")]
    assert cli.main(base) == 0
    assert "choose another --out" in fails([*base, "--set", "seed=3"], capsys)


def test_an_unknown_scale_is_refused_with_the_known_ones(capsys):
    """argparse's own words, and the same exit status."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "course", "--scale", "huge"])
    assert stop.value.code == 2
    assert "tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["run"], ["merge"], ["evaluate"], ["doctor"], ["course"], ["estimate"], ["export"]]
)
def test_help_reads_well_and_comes_at_once(command):
    """Help that loads torch takes seconds."""
    code = "import sys, time; t = time.perf_counter(); from hermes_nb import cli\ntry: cli.main(sys.argv[1:])\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and time.perf_counter() - t < 2"
    done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True)
    assert "usage: hermes_nb" in done.stdout


def test_doctor_says_what_and_why(capsys):
    """The first thing to paste into a bug report."""
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dtype_reason"]
    assert facts["versions"]["trl"]
    assert cli.main(["doctor"]) == 0
    assert "dtype_reason" in capsys.readouterr().out


def test_an_estimate_says_what_it_rests_on(tmp_path, capsys):
    """Hours without their assumptions are a promise; the file holds the same numbers."""
    file = tmp_path / "estimate.json"
    assert cli.main(["estimate", "neuralhermes", "--gpu", "t4", "--json", str(file)]) == 0
    said, told = capsys.readouterr().out, json.loads(file.read_text())
    assert told["scale"] == "t4"
    assert told["share_origin"] in said
    assert told["stages"][0]["notes"][0] in said
    assert cli.main(["estimate", "neuralhermes", "--gpu", "t4", "--scale", "a100"]) == 0
    assert "at scale a100" in capsys.readouterr().out


def test_the_check_shows_both_published_systems(tmp_path, capsys):
    """Anyone can see how far off the estimate is."""
    assert cli.main(["estimate", "--check", "--json", str(tmp_path / "check.json")]) == 0
    said = capsys.readouterr().out
    told = json.loads((tmp_path / "check.json").read_text())["systems"]
    assert all(one["system"] in said for one in told)
    assert len(told) == 2


def test_export_shows_what_would_leave_and_sends_nothing(tmp_path, capsys, small_model):
    """The list is read before anything is sent; the same command shows it again."""
    run = small_run(tmp_path / "run", small_model)
    for what, repo in (("merged", "SmolLM2-135M-Instruct-dpo"), ("adapter", "SmolLM2-135M-Instruct-dpo-lora")):
        for _ in range(2):
            assert cli.main(["export", str(run), "--what", what]) == 0
        said, place = capsys.readouterr().out, run / "export" / what
        assert f"dry run, nothing was sent: {place}" in said
        assert f"repo {{user}}/{repo} (private), {len(list(place.iterdir()))} files" in said
        assert all(f"MB  {file.name}\n" in said for file in place.iterdir())
    assert cli.main(["export", str(run), "--to", str(tmp_path / "x"), "--repo", "ann/mine", "--public"]) == 0
    assert "repo ann/mine (public)" in capsys.readouterr().out
    assert (tmp_path / "x" / "README.md").is_file()


def test_a_card_that_was_edited_in_the_export_is_kept(tmp_path, capsys, small_model):
    """Export once, write an hour on the card, export again: that hour must not be gone."""
    run = small_run(tmp_path / "run", small_model)
    place = run / "export" / "merged"
    for _ in range(2):
        assert cli.main(["export", str(run)]) == 0
        assert "as it stood" not in capsys.readouterr().out
    (place / "README.md").write_text("# mine\n")
    (run / "merged" / "optimizer.pt").write_bytes(b"\x80")
    fails(["export", str(run)], capsys)
    assert (place / "README.md").read_text() == "# mine\n"
    (run / "merged" / "optimizer.pt").unlink()
    assert cli.main(["export", str(run)]) == 0
    assert (place / "README.md").read_text() == "# mine\n"
    assert f"note: README.md: as it stood in {place}" in capsys.readouterr().out
    assert [p.name for p in (run / "export").iterdir()] == ["merged"]


def test_export_refuses_with_status_2_and_one_line(tmp_path, capsys, monkeypatch, small_model):
    """A finding, a missing stage, no token: each in one line."""
    run = small_run(tmp_path / "run", small_model)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no Hugging Face token here" in fails(["export", str(run), "--push"], capsys)
    (run / "merged" / "optimizer.pt").write_bytes(b"\x80")
    assert "optimizer.pt: a pickle" in fails(["export", str(run)], capsys)
    (run / "dpo" / "adapter").rename(run / "moved")
    assert cli.main(["export", str(run), "--what", "adapter"]) == 0
    assert "-sft-lora" in capsys.readouterr().out
    (run / "merged").rename(run / "gone")
    assert "run that stage first (--stages merge)" in fails(["export", str(run)], capsys)


def test_a_chain_of_adapters_is_handed_on_in_its_order(monkeypatch, capsys):
    """Merged the other way round it is another model."""
    seen, told = [], []
    fake = create_autospec(merge.merge, side_effect=lambda *given: seen.append([str(x) for x in given[:3]]))
    chosen = create_autospec(
        merge.choose, side_effect=lambda adapter, *how: told.append(str(adapter)) or merge.Choice(*how, "so")
    )
    monkeypatch.setattr(merge, "merge", fake)
    monkeypatch.setattr(merge, "choose", chosen)
    assert cli.main(["merge", "builtin", "a", "out"]) == 0
    assert cli.main(["merge", "builtin", "a", "out", "--then", "b", "--then", "c"]) == 0
    assert seen[0] == ["builtin", "a", "out"]
    assert [x in seen[1][1] for x in ("'a'", "'b'", "'c'")] == [True] * 3
    assert seen[1][1].index("'a'") < seen[1][1].index("'b'") < seen[1][1].index("'c'")
    assert told == ["a", "c"]  # the last one's run says what was measured


def faked(monkeypatch):
    """A merge of two tensors of 1 and 3 MB that writes nothing, and what it was called with."""
    seen = {}

    def made(base, adapter, out, onto, dtype, shard, revision, template, watch):
        seen.update(template=template, onto=onto, dtype=dtype)
        watch(1_000_000, 4_000_000, "one")
        watch(4_000_000, 4_000_000, "two")
        return out

    monkeypatch.setattr(merge, "merge", made)
    monkeypatch.setattr(merge, "choose", lambda adapter, onto, dtype: merge.Choice(onto, dtype, "it was nearest"))
    return seen


def test_a_merge_says_where_it_is_and_why_it_is_so(monkeypatch, capsys):
    """The folder alone on stdout, for scripts; the reason beside it, unless nothing was left open."""
    seen = faked(monkeypatch)
    assert cli.main(["merge", "builtin", "a", "out", "--template", "zephyr"]) == 0
    assert tuple(capsys.readouterr()) == ("out\n", "hermes_nb: it was nearest\n")
    assert seen == {"template": "zephyr", "onto": "auto", "dtype": "auto"}
    assert cli.main(["merge", "builtin", "a", "out", "--onto", "original", "--dtype", "float16"]) == 0
    assert tuple(capsys.readouterr()) == ("out\n", "")
    assert seen["template"] is None


def test_a_merge_shows_its_bytes_on_a_terminal_alone(monkeypatch, capsys):
    """Minutes of silence look like a hang; a bar in a log file is noise, and so is one of nothing to do."""
    faked(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["merge", "builtin", "a", "out"]) == 0
    assert "merge: 100%" in (said := capsys.readouterr().err)
    assert "4.00M/4.00M" in said
    monkeypatch.setattr(merge, "merge", lambda *given: given[2])  # it stands there already
    assert cli.main(["merge", "builtin", "a", "out"]) == 0
    assert not capsys.readouterr().err.rpartition("hermes_nb:")[0].rpartition("\r")[2].strip()


def test_a_benchmark_of_the_merge_takes_a_size(monkeypatch, capsys):
    """One command for all three benchmarks; a missed promise ends with 1."""
    missed = create_autospec(bench.merge, side_effect=lambda size, repeats: {"size": size, "misses": [repeats]})
    monkeypatch.setattr(bench, "merge", missed)
    monkeypatch.setattr(
        bench, "merging_text", create_autospec(bench.merging_text, side_effect=lambda told: f"size {told['size']}")
    )
    assert cli.main(["bench", "merge"]) == 1
    assert capsys.readouterr().out == "size 1b\n"
    monkeypatch.setattr(bench, "merge", lambda size, repeats: {"size": size, "misses": []})
    assert cli.main(["bench", "merge", "--size", "7b"]) == 0
    assert capsys.readouterr().out == "size 7b\n"
