"""Run alone: python -m pytest tests/test_history.py"""

import json

import pytest

from hermes_nb import history
from hermes_nb.errors import DataProblem, FileProblem


def test_names_are_the_courses_own():
    """rewards/margins in one place and margin in another: nobody finds anything."""
    rows = history.entries({"loss": 0.5, "rewards/margins": 1.0, "eval_rewards/accuracies": 0.75, "epoch": 1.0}, 3)
    assert rows == [
        {"step": 3, "split": "train", "metric": "loss", "value": 0.5},
        {"step": 3, "split": "train", "metric": "margin", "value": 1.0},
        {"step": 3, "split": "held_out", "metric": "accuracy", "value": 0.75},
    ]


def test_bookkeeping_is_no_metric():
    """Runtime and FLOPs of the trainer would show as curves."""
    log = {"train_runtime": 3.0, "train_loss": 0.1, "total_flos": 1e9, "eval_runtime": 1.0, "epoch": 1.0, "text": "x"}
    assert history.entries(log, 1) == []


def test_a_stage_folder_is_read_as_a_tidy_frame(tmp_path):
    """One frame for plots, tables and comparisons of runs."""
    rows = history.entries({"loss": 0.5}, 1) + history.entries({"loss": 0.4, "eval_loss": 0.6}, 2)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = history.load(tmp_path)
    assert list(table.columns) == ["run", "step", "split", "metric", "value"]
    assert history.series(table, "loss").to_dict() == {1: 0.5, 2: 0.4}
    assert history.series(table, "loss", "held_out").to_dict() == {2: 0.6}


def test_a_missing_or_damaged_history_is_said(tmp_path):
    """The file and the next step."""
    with pytest.raises(FileProblem, match=r"no history\.jsonl"):
        history.load(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"step": 1,')
    with pytest.raises(FileProblem, match="damaged"):
        history.load(tmp_path)


STATE = {
    "global_step": 2,
    "log_history": [
        {"step": 1, "epoch": 0.5, "loss": 0.69, "learning_rate": 1e-4, "rewards/margins": 0.0},
        {"step": 2, "epoch": 1.0, "loss": 0.5, "rewards/margins": 0.4},
        {"step": 2, "epoch": 1.0, "eval_loss": 0.6, "eval_rewards/accuracies": 0.75, "eval_runtime": 9.0},
    ],
}


def stored(folder, steps=(2,)):
    """A folder of checkpoints as transformers leaves them."""
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | {"global_step": step}))
    return folder


def test_a_trainer_state_of_any_trl_run_is_read(tmp_path):
    """A run made elsewhere, with TRL alone, can be seen here too: the file, its checkpoint, or the folder above."""
    folder = stored(tmp_path / "run", (2, 10))
    tables = [history.load(folder / "checkpoint-10" / "trainer_state.json"), history.load(folder / "checkpoint-10")]
    tables.append(history.load(folder))
    for table in tables:
        assert set(table.run) == {"checkpoint-10"}, "10 comes after 2"
        assert history.series(table, "margin").to_dict() == {1: 0.0, 2: 0.4}
        assert history.series(table, "accuracy", "held_out").to_dict() == {2: 0.75}
        assert "runtime" not in set(table.metric)
    with pytest.raises(FileProblem, match="did not look"):
        history.looks(folder)


def looked(file, steps=(0, 5), beta=0.1, more=()):
    """A history with one metric and two pairs: chosen gains 1 nat a step, rejected of pair 1 loses 2."""
    turns = [{"role": "user", "content": "q"}]
    lines = [{"beta": beta, "loss": ["sigmoid"]}]
    lines += [{"pair": p, "prompt": turns, "chosen": turns, "rejected": turns, "kind": None, "source": "here", "row": p,
               "pieces": [["a", "b"], ["c"]]} for p in (0, 1)]  # fmt: skip
    for step in steps:
        lines += [{"step": step, "pair": p, "logps": [-10.0 + step, -20.0 - 2 * step * p],
                   "tokens": [[-4.0, -6.0 + step], [-20.0 - 2 * step * p]]} for p in (0, 1)]  # fmt: skip
        lines.append({"step": step, "split": "looks", "metric": "margin", "value": 0.0})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
    return file


def test_rewards_are_counted_from_step_0(tmp_path):
    """Step 5, pair 1, beta 0.1: chosen 0.1 * 5, rejected 0.1 * -10, margin 0.5 + 1.0."""
    looks = history.looks(looked(tmp_path / "history.jsonl"))
    assert (looks.steps, looks.beta, len(looks.pairs)) == ([0, 5], 0.1, 2)
    assert looks.margins(0) == [0.0, 0.0]
    assert looks.margins(5) == pytest.approx([0.5, 1.5])
    row = looks.table[(looks.table.step == 5) & (looks.table.pair == 1)].iloc[0]
    assert (row.reward_chosen, row.reward_rejected) == pytest.approx((0.5, -1.0))
    assert looks.earned(1) == (pytest.approx([0.0, 0.5]), pytest.approx([-1.0]))
    assert list(history.load(tmp_path / "history.jsonl").metric) == ["margin", "margin"]


def test_tokens_that_were_not_kept_are_said(tmp_path):
    """Zeros in a heat map would say that nothing has moved."""
    looks = history.looks(looked(tmp_path / "history.jsonl"))
    with pytest.raises(DataProblem, match=r"step 3.*there are steps \[0, 5\]"):
        looks.earned(1, 3)
    with pytest.raises(DataProblem, match="no tokens were kept"):
        looks.earned(7)


def test_a_run_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    """A line that is half on disk must not end the look at a running run; in a finished one it is damage."""
    file = looked(tmp_path / ".dpo.work" / "history.jsonl")
    with open(file, "a") as out:
        out.write('{"step": 6, "split"')
    assert history.looks(tmp_path / "dpo").steps == [0, 5]
    assert len(history.load(tmp_path / "dpo")) == 2
    finished = looked(tmp_path / "dpo" / "history.jsonl")
    with open(finished, "a") as out:
        out.write('{"step": 6, "split"')
    with pytest.raises(FileProblem, match="damaged"):
        history.looks(tmp_path / "dpo")


def test_a_run_that_did_not_look_says_how_to(tmp_path):
    """An empty picture explains nothing."""
    (tmp_path / "history.jsonl").write_text('{"step": 1, "split": "train", "metric": "loss", "value": 1.0}\n')
    with pytest.raises(FileProblem, match=r"dpo\.looks"):
        history.looks(tmp_path)


def test_a_shipped_history_has_a_name_of_its_own(tmp_path):
    """Three runs called history.jsonl could not be told apart in a legend."""
    assert history.looks(looked(tmp_path / "history_beta_01.jsonl")).run == "beta_01"
    assert set(history.load(looked(tmp_path / "runs" / "dpo" / "history.jsonl")).run) == {"dpo"}


@pytest.mark.parametrize("breaks", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_break_in_a_text_breaks_no_line(tmp_path, breaks):
    """Python counts eight more signs as ends of lines than JSON does; such a row made a whole run unreadable."""
    file = looked(tmp_path / "history.jsonl")
    lines = [json.loads(line) for line in file.read_text().split("\n") if line]
    lines[1]["prompt"] = [{"role": "user", "content": f"a{breaks}b"}]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert history.looks(file).pairs[0]["prompt"][0]["content"] == f"a{breaks}b"
    assert history.looks(file).steps == [0, 5]


def test_a_running_file_cut_within_a_character_is_read(tmp_path):
    """A reader that meets half a letter must not raise, in the middle of a training."""
    file = looked(tmp_path / ".dpo.work" / "history.jsonl")
    with open(file, "ab") as out:
        out.write(b'{"step": 6, "text": "\xc3')
    assert history.looks(tmp_path / "dpo").steps == [0, 5]


def test_a_run_keeps_its_name_when_it_is_done(tmp_path, monkeypatch):
    """The label in a legend must not change when the training ends; a path may be the folder that one stands in."""
    looked(tmp_path / ".dpo.work" / "history.jsonl")
    assert history.looks(tmp_path / "dpo").run == "dpo"
    looked(tmp_path / "dpo" / "history.jsonl")
    monkeypatch.chdir(tmp_path / "dpo")
    assert history.looks(".").run == "dpo"


def test_tokens_that_come_behind_their_look_are_found(tmp_path):
    """A run that was stopped at a look writes its tokens when it ends; without them there is nothing but step 0."""
    more = [{"step": 7, "pair": p, "logps": [-3.0, -20.0]} for p in (0, 1)]
    more += [{"step": 7, "pair": 0, "tokens": [[-1.0, -2.0], [-20.0]]}]
    looks = history.looks(looked(tmp_path / "history.jsonl", (0,), more=more))
    assert looks.steps == [0, 7]
    assert looks.earned(0) == (pytest.approx([0.3, 0.4]), pytest.approx([0.0]))
    with pytest.raises(DataProblem, match=r"there are steps \[0\]"):
        looks.earned(1)
