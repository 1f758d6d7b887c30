"""Run alone: python -m pytest tests/test_cli.py"""

import json
import subprocess
import sys

import pytest

from hermes_nb import cli


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


@pytest.mark.parametrize("command", [[], ["run"], ["merge"], ["evaluate"], ["doctor"], ["course"], ["estimate"]])
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
