"""Where a notebook starts when it runs alone. Run alone: python -m pytest tests/test_lessons.py"""

import json

import pytest

from hermes_nb import history, lessons, models, recipes, runs
from hermes_nb.errors import FileProblem
from hermes_nb.runtime import samples_dir

EXPERIMENTS = sorted((samples_dir() / "experiments").glob("*.json"))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A fresh runtime: no runs yet."""
    monkeypatch.setenv("HERMES_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def finish(out, stage, parent=None):
    (out / stage / "adapter").mkdir(parents=True)
    (out / stage / "adapter" / "adapter_model.safetensors").write_text(stage)
    runs.write_json(out / stage / "run.json", {"stage": stage, "parent": parent})


@pytest.mark.parametrize("stage", ["format", "sft", "dpo", "merge", "evaluate"])
def test_alone_at_tiny_it_starts_from_what_is_shipped(stage, empty, capsys):
    """A reader may open any notebook first."""
    start = lessons.begin(stage, "tiny")
    assert set(start.adapters) == set(lessons.NEEDS[stage])
    for folder in start.adapters.values():
        models.check_adapter(folder)
    line = capsys.readouterr().out
    assert ("shipped" in line) == bool(start.adapters)


def test_a_run_of_ones_own_comes_first(empty, capsys):
    """Who has trained an adapter wants to see that one."""
    finish(empty / "course-tiny", "sft")
    assert lessons.begin("dpo", "tiny").adapters == {"sft": empty / "course-tiny" / "sft" / "adapter"}
    assert "sft from course-tiny" in capsys.readouterr().out
    # half a run is not mixed with what is shipped: that DPO adapter belongs to another SFT
    assert lessons.begin("merge", "tiny").adapters["sft"] == lessons.shipped("sft")


def test_only_adapters_that_belong_together_are_taken_together(empty, capsys):
    """A DPO adapter beside another SFT than its own has a wrong reference: every margin would be off."""
    digest = runs.file_digest(lessons.shipped("sft") / "adapter_model.safetensors")
    finish(empty / "course-tiny", "dpo", parent=digest)
    dpo = empty / "course-tiny" / "dpo" / "adapter"
    assert lessons.begin("merge", "tiny").adapters == {"sft": lessons.shipped("sft"), "dpo": dpo}
    assert "sft from what is shipped, dpo from course-tiny" in capsys.readouterr().out
    finish(empty / "course-tiny", "sft")  # made later: not where that DPO started
    assert lessons.begin("merge", "tiny").adapters == {"sft": lessons.shipped("sft"), "dpo": dpo}
    sft = empty / "course-tiny" / "sft" / "adapter"
    mine = runs.file_digest(sft / "adapter_model.safetensors")
    runs.write_json(empty / "course-tiny" / "dpo" / "run.json", {"parent": mine})
    assert lessons.begin("merge", "tiny").adapters == {"sft": sft, "dpo": dpo}
    runs.write_json(empty / "course-tiny" / "dpo" / "run.json", {"parent": "of something else"})
    assert lessons.begin("evaluate", "tiny").adapters["dpo"] == lessons.shipped("dpo")


def test_the_merge_begins_at_the_scale_of_the_run(empty):
    """A merge needs the memory of one tensor: a T4 that has trained a 7B merges it too."""
    finish(empty / "course-t4", "sft")
    digest = runs.file_digest(empty / "course-t4" / "sft" / "adapter" / "adapter_model.safetensors")
    finish(empty / "course-t4", "dpo", parent=digest)
    assert lessons.begin("merge", "t4").recipe.scale == "t4"


def test_on_a_gpu_without_a_run_dpo_starts_from_a_tuned_model(empty, capsys):
    """DPO on a base that cannot chat teaches nothing."""
    start = lessons.begin("dpo", "t4")
    assert start.recipe.model.base == "teknium/OpenHermes-2.5-Mistral-7B"
    assert start.recipe.sft is None
    assert start.adapters == {}
    assert "tuned already" in capsys.readouterr().out
    for stage in ("merge", "evaluate"):
        assert lessons.begin(stage, "a100").recipe.scale == "tiny"
    finish(empty / "course-t4-tuned", "dpo")
    assert set(lessons.begin("merge", "t4").adapters) == {"dpo"}
    finish(empty / "course-t4", "sft")
    assert lessons.begin("dpo", "t4").recipe.model.base == recipes.load("course", "t4").model.base


def test_shipped_adapters_are_small_and_whole():
    """At most 6 MB each, no pickle, no path of a machine."""
    for stage in ("sft", "dpo"):
        folder = lessons.shipped(stage)
        assert {p.name for p in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        assert sum(p.stat().st_size for p in folder.iterdir()) < 6_000_000
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["r"] == recipes.load("course", "tiny").lora.r
        assert config["lora_alpha"] == recipes.load("course", "tiny").lora.alpha
        assert "/" not in config["base_model_name_or_path"]
    with pytest.raises(FileProblem, match="sft and dpo"):
        lessons.shipped("merge")


def test_the_merge_of_seven_billion_is_as_it_was_measured():
    """04 draws its curve: memory after each tensor, up to the last byte, and every promise kept."""
    told = lessons.merging()
    assert told["parameters"] == 7_241_732_096
    assert told["misses"] == []
    seconds, gb, done = zip(*told["curve"], strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == 2 * told["parameters"]
    assert max(gb) <= told["sides"]["original"]["gb"] <= 1.5
    assert seconds[-1] <= told["sides"]["original"]["seconds"]


def test_the_small_base_is_found_and_its_absence_said(tmp_path, monkeypatch):
    """04 cannot begin without it; the reader must learn how to make it."""
    assert (lessons.small_base() / "config.json").is_file()
    monkeypatch.setattr(lessons, "samples_dir", lambda: tmp_path)
    with pytest.raises(FileProblem, match="make small-base"):
        lessons.small_base()


def test_an_unknown_experiment_is_told_the_known_ones():
    """A typo in a notebook cell."""
    with pytest.raises(FileProblem, match="cut_stop"):
        lessons.experiment("cut_stopp")
    with pytest.raises(FileProblem, match="no failure 'headline'"):
        lessons.failure("headline")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_says_where_it_was_measured(path):
    """A number without its machine and versions is hearsay."""
    told = lessons.experiment(path.stem)
    assert told["chip"]
    assert set(told["versions"]) == set(runs.STACK)
    assert list(told["history"].columns) == ["run", "step", "split", "metric", "value"]
    assert path.stem == "headline" or told["metrics"]["steps"] == told["history"].step.max()
    assert not [w for w in ("/work/", "/root/", "/home/", "/tmp/") if w in path.read_text()]


def test_the_headline_is_three_seeds_at_temperature_1():
    """The course's one claim: SFT imitates the mixture, DPO chooses within it; n >= 120, intervals apart."""
    told = lessons.experiment("headline")
    assert len(told["seeds"]) == 3
    sft, dpo = told["models"]["sft"], told["models"]["dpo"]
    assert sft["card"]["n"] == dpo["card"]["n"] == 360
    assert 0.3 < sft["card"]["value"] < 0.7
    assert 0.25 < sft["padded"]["value"] < 0.7
    assert dpo["card"]["low"] > 0.85
    assert dpo["padded"]["high"] < 0.1


def test_the_stop_failure_and_its_repair_are_as_the_lesson_says():
    """Fewer answers end where rejected ends and chosen goes on; not where it is cut elsewhere; a short SFT mends it."""
    ends = {n: lessons.experiment(n)["greedy"]["stops"]["value"] for n in ("cut_stop", "cut_elsewhere", "repair_sft")}
    healthy = lessons.experiment("dpo_beta_01")["greedy"]["stops"]["value"]
    assert ends["cut_stop"] < healthy - 0.2
    assert ends["cut_elsewhere"] > ends["cut_stop"] + 0.4
    assert ends["repair_sft"] > ends["cut_stop"] + 0.5


@pytest.mark.parametrize("name", ["cut_stop", "length_biased", "too_easy", "noisy"])
def test_a_failure_is_ready_to_train(name, empty):
    """Always the tiny model, its 80 rows, and an adapter to start from."""
    failure = lessons.failure(name)
    assert failure.recipe.model.base == "builtin"
    assert len(failure.rows) == 80
    models.check_adapter(failure.start)
    assert failure.recipe.dpo.too_long == ("cut" if name == "cut_stop" else "refuse")
    _, cards = lessons.repair()
    assert set(cards["train"]["kind"]) == {"card"}


def test_the_strip_of_answers_grows(empty):
    """Shipped answers first, overlaid by those of the reader's own run."""
    out = empty / "course-tiny"
    shipped = lessons.strip(out)
    assert list(shipped) == ["base", "sft", "dpo", "merged"]
    assert lessons.strip(out, sft="mine")["sft"] == "mine"
    assert lessons.strip(out, dpo="too") == shipped | {"sft": "mine", "dpo": "too"}
    assert lessons.strip(empty / "course-t4", dpo="large") == {"dpo": "large"}


def test_the_speed_that_is_shown_is_the_one_that_was_measured():
    """A row a file; TRL's and ours in pairs/s, as the files say."""
    files = sorted((samples_dir() / "benchmarks").glob("dpo_*.json"))
    rows = lessons.speed()
    assert len(rows) == len(files) >= 2
    for file, row in zip(files, rows, strict=True):
        told = json.loads(file.read_text())
        assert row["lengths like"] == told["lengths"]
        assert row["packed"] == f"{told['sides']['packed, on the fly']['pairs_s']:.2f} pairs/s"
        assert told["misses"] == []


def test_the_engine_is_switched_off_in_dpo_alone():
    """The switch of 03_dpo compares two ways to compute one recipe."""
    recipe = recipes.load("course", "tiny")
    padded = lessons.padded(recipe)
    assert (recipe.dpo.packed, padded.dpo.packed) == (True, False)
    assert padded.sft == recipe.sft


LOGGED = sorted(p.stem.removeprefix("history_") for p in samples_dir().glob("history_*.jsonl"))


@pytest.mark.parametrize("name", LOGGED)
def test_a_logged_run_is_whole_and_says_how_it_was_made(name):
    """A shipped file that a widget cannot read, or that nobody can place, is worse than none."""
    file = lessons.logged(name)
    first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    assert {"title", "chip", "dtype", "versions"} <= set(first)
    table = history.load(file)
    assert set(table.run) == {name}
    assert history.series(table, "loss").index.tolist() == list(range(1, int(table.step.max()) + 1))
    assert file.stat().st_size < 400_000
    assert "/" not in json.dumps(first), "a path, or another thing of that machine"
    if name == "sft":
        return
    looks = history.looks(file)
    assert len(looks.steps) == 5
    assert looks.margins(0) == [0.0] * len(looks.pairs)
    last = looks.table[looks.table.step == looks.steps[-1]].set_index("pair")
    for pair in range(len(looks.pairs)):
        chosen, rejected = looks.earned(pair)
        assert sum(chosen) == pytest.approx(last.reward_chosen[pair], abs=0.01)
        assert sum(rejected) == pytest.approx(last.reward_rejected[pair], abs=0.01)


def test_logged_runs_differ_in_what_they_say():
    """Beta 0.01, 0.1 and 0.5 on the same pairs; another name says which there are."""
    runs = [history.looks(lessons.logged(f"dpo_beta_{b}")) for b in ("001", "01", "05")]
    assert [run.beta for run in runs] == [0.01, 0.1, 0.5]
    assert len({json.dumps([pair["chosen"] for pair in run.pairs]) for run in runs}) == 1
    with pytest.raises(FileProblem, match="dpo_beta_01"):
        lessons.logged("dpo_beta_02")


def test_a_start_from_a_stopped_run_is_said(empty, capsys):
    """Who stopped SFT at step 3 yesterday must not wonder today what DPO starts from."""
    out = empty / "course-tiny"
    finish(out, "sft")
    runs.write_json(out / "sft" / "run.json", {"stage": "sft", "parent": None, "stopped": {"step": 3, "of": 40}})
    lessons.begin("dpo", "tiny")
    assert "sft from course-tiny (stopped after step 3 of 40)" in capsys.readouterr().out
