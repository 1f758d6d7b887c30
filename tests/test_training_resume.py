"""A run that is stopped goes on to the same bytes. Run alone: python -m pytest tests/test_training_resume.py"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from test_dpo_losses import drawn_adapter
from transformers import TrainerState

from hermes_nb import dpo, models, recipes, runs, sft, training
from hermes_nb.errors import TrainingProblem
from hermes_nb.training.budget import Budget

pytestmark = pytest.mark.usefixtures("frozen")
SILENT = lambda *a: None  # noqa: E731
MORE = {"max_steps": 6, "checkpoints": 3, "learning_rate": 1e-3}  # two epochs; states at 2, 4 and 6
WAYS = {
    "sft": ("sft", {}, False),
    "dpo, fresh adapter": ("dpo", {"reference": "on_the_fly"}, False),
    "dpo, from a start": ("dpo", {"reference": "on_the_fly"}, True),
    "dpo, stored reference": ("dpo", {"reference": "cached"}, True),
}


class Stop(Exception):
    pass


def stopping(at: int, steps: list | None = None):
    """A watcher that stops the run when step `at` is logged."""

    def watch(rows, step, total):
        if steps is not None:
            steps.append(step)
        if step == at:
            raise Stop

    return watch


def with_stage(recipe, name, **more):
    return replace(recipe, **{name: replace(getattr(recipe, name), **(MORE | more))})


def run_of(name, recipe, rows, out, start=None, watch=SILENT):
    if name == "sft":
        return sft.train(recipe, rows["sft"], out, watch=watch)
    return dpo.train(recipe, rows["dpo"], out, start=start, watch=watch)


def lines(run):
    """What was logged, but for the time."""
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    return [row for row in rows if row["metric"] not in ("seconds", "peak_gb")]


def weights(run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def start(tiny_base, tmp_path_factory):
    return drawn_adapter(tiny_base, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The plain SFT run of six steps in fp32, made once: `undisturbed(recipe, rows)`."""
    made = []

    def run(recipe, rows):
        if not made:
            made.append(run_of("sft", with_stage(recipe, "sft"), rows, tmp_path_factory.mktemp("undisturbed")))
        return made[0]

    return run


@pytest.mark.parametrize(
    ("way", "fp32"), [*((way, True) for way in WAYS), ("dpo, from a start", False), ("sft", False)]
)  # fmt: skip
def test_a_stopped_run_ends_in_the_same_bytes(way, fp32, recipe, rows, tmp_path, request):
    """Optimizer, schedule, order of the rows, random numbers, history: whatever is forgotten shows."""
    if fp32:
        request.getfixturevalue("cpu_fp32")
    name, more, given = WAYS[way]
    if more.get("reference") == "cached":
        more = more | {"reference_store": str(tmp_path / "store")}
    ours, begun = with_stage(recipe, name, **more), request.getfixturevalue("start") if given else None
    straight = run_of(name, ours, rows, tmp_path / "a", begun)
    steps = []
    with pytest.raises(Stop):
        run_of(name, ours, rows, tmp_path / "b", begun, stopping(5))
    assert not (tmp_path / "b" / name).exists()
    resumed = run_of(name, ours, rows, tmp_path / "b", begun, stopping(0, steps))
    assert steps == [5, 6], "it went on from the state at step 4"
    assert weights(resumed) == weights(straight)
    assert lines(resumed) == lines(straight)
    for told in ("steps", "moved", "train_loss", "train_tokens"):
        assert resumed.metrics[told] == straight.metrics[told], told


def test_a_run_that_is_stopped_twice_ends_in_the_same_bytes(recipe, rows, cpu_fp32, undisturbed, tmp_path):
    """The second stop finds a history that was cut by the first."""
    ours, straight = with_stage(recipe, "sft"), undisturbed(recipe, rows)
    for at in (3, 5):
        with pytest.raises(Stop):
            run_of("sft", ours, rows, tmp_path / "b", watch=stopping(at))
    resumed = run_of("sft", ours, rows, tmp_path / "b")
    assert weights(resumed) == weights(straight)
    assert lines(resumed) == lines(straight)


def test_dropout_and_noise_go_on_where_they_were(recipe, rows, cpu_fp32, tmp_path):
    """Random numbers are part of the state."""
    ours = replace(with_stage(recipe, "sft", neftune=5.0), lora=recipes.Lora(r=4, dropout=0.2))
    straight = run_of("sft", ours, rows, tmp_path / "a")
    with pytest.raises(Stop):
        run_of("sft", ours, rows, tmp_path / "b", watch=stopping(3))
    assert weights(run_of("sft", ours, rows, tmp_path / "b")) == weights(straight)


def test_a_run_that_is_stopped_after_its_last_step_trains_no_step_more(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """Killed while the held-out rows are scored, the last state stands; 5 of 6 steps of two epochs are a whole run."""
    ours, both = with_stage(recipe, "sft", max_steps=5, score_held_out=True), {
        "sft": {"train": rows["sft"], "held_out": rows["sft"]}
    }  # fmt: skip
    straight = run_of("sft", ours, both, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(sft.RowTrainer, "evaluate", lambda *a, **k: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            run_of("sft", ours, both, tmp_path / "b")
    resumed = run_of("sft", ours, both, tmp_path / "b")
    assert resumed.metrics["steps"] == 5
    assert weights(resumed) == weights(straight)
    assert lines(resumed) == lines(straight)


def test_a_kill_while_a_state_is_sealed_costs_one_state_and_not_all(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """The older state must not be deleted before the newer one is whole."""
    ours, plain, steps = with_stage(recipe, "sft"), runs.seal, []

    def seal(folder):
        if folder.name == "checkpoint-4":
            raise Stop
        return plain(folder)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "seal", seal)
        with pytest.raises(Stop):
            run_of("sft", ours, rows, tmp_path)
    run_of("sft", ours, rows, tmp_path, watch=stopping(0, steps))
    assert steps == [3, 4, 5, 6]


def test_a_run_whose_states_are_all_damaged_is_begun_anew(recipe, rows, cpu_fp32, undisturbed, tmp_path):
    """Damaged states that stay in the folder would be the newest by number: the new ones would be deleted for them."""
    ours, steps = with_stage(recipe, "sft", checkpoints=6), []
    with pytest.raises(Stop):
        run_of("sft", ours, rows, tmp_path, watch=stopping(5))
    states = list((tmp_path / ".sft.work" / "checkpoints").glob("checkpoint-*"))
    for state in states:
        (state / "adapter_model.safetensors").write_bytes(b"")
    run = run_of("sft", ours, rows, tmp_path, watch=stopping(0, steps))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert weights(run) == weights(undisturbed(recipe, rows))
    assert lines(run) == lines(undisturbed(recipe, rows))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_newest_state_that_is_not_whole_is_passed_over(damage, recipe, rows, cpu_fp32, undisturbed, tmp_path):
    """A disk that filled up: the newest state has a part of a file, the one before it is whole."""
    ours, steps, straight = with_stage(recipe, "sft"), [], undisturbed(recipe, rows)
    with pytest.raises(Stop):
        run_of("sft", ours, rows, tmp_path / "b", watch=stopping(5))
    file = tmp_path / "b" / ".sft.work" / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors"
    raw = file.read_bytes()
    {"cut": lambda: file.write_bytes(raw[:-100]), "changed": lambda: file.write_bytes(raw[:-1] + b"?"),
     "gone": file.unlink}[damage]()  # fmt: skip
    resumed = run_of("sft", ours, rows, tmp_path / "b", watch=stopping(0, steps))
    assert steps == [3, 4, 5, 6], "the state at step 2 was whole"
    assert weights(resumed) == weights(straight)
    assert lines(resumed) == lines(straight)


def test_the_newest_whole_state_by_hand(tmp_path):
    """States 2 and 10 are whole, 9 has a changed file, 11 no manifest: 10 by number, and 2 when 10 is damaged."""
    for number in (2, 9, 10, 11):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "weights").write_text("whole")
        if number != 11:
            runs.seal(folder)
    (tmp_path / "checkpoint-9" / "weights").write_text("other")
    assert training.newest(tmp_path).name == "checkpoint-10"
    (tmp_path / "checkpoint-10" / "weights").write_text("")
    assert training.newest(tmp_path).name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / "manifest.json").write_text("{")
    assert training.newest(tmp_path) is None
    assert training.newest(tmp_path / "nowhere") is None


def test_another_recipe_begins_anew(recipe, rows, cpu_fp32, tmp_path):
    """Going on from the state of another learning rate would be a run that no recipe describes."""
    steps = []
    with pytest.raises(Stop):
        run_of("sft", with_stage(recipe, "sft"), rows, tmp_path / "a", watch=stopping(5))
    other = with_stage(recipe, "sft", learning_rate=2e-3)
    run = run_of("sft", other, rows, tmp_path / "a", watch=stopping(0, steps))
    assert steps == [1, 2, 3, 4, 5, 6]
    straight = run_of("sft", other, rows, tmp_path / "b")
    assert weights(run) == weights(straight)
    assert lines(run) == lines(straight)


def test_other_rows_or_another_start_begin_anew(recipe, rows, start, cpu_fp32, tmp_path):
    """The same recipe on other data is another run."""
    ours, steps = with_stage(recipe, "dpo", reference="on_the_fly"), []
    with pytest.raises(Stop):
        run_of("dpo", ours, rows, tmp_path / "a", start, stopping(5))
    with pytest.raises(Stop):
        run_of("dpo", ours, rows, tmp_path / "a", None, stopping(5, steps))
    assert steps == [1, 2, 3, 4, 5]
    with pytest.raises(Stop):
        run_of("dpo", ours, {"dpo": rows["dpo"].select(range(8))}, tmp_path / "a", None, stopping(1, steps))
    assert steps[-1] == 1


def test_the_recorded_budget_is_taken_again(recipe, rows, cpu_fp32, tmp_path):
    """Measured anew it might be another, and another cut rounds otherwise."""
    ours = with_stage(recipe, "sft")
    with pytest.raises(Stop):
        run_of("sft", ours, rows, tmp_path, watch=stopping(5))
    file = tmp_path / ".sft.work" / "engine.json"
    kept = runs.read_json(file)
    kept["budget"] = Budget(77, "recorded", 3).to_dict()
    runs.write_json(file, kept)
    run = run_of("sft", ours, rows, tmp_path)
    assert run.meta["engine"]["budget"] == {"tokens": 77, "reason": "recorded", "halvings": 3}


def test_the_recorded_attention_is_taken_again(recipe, rows, cpu_fp32, tmp_path):
    """Another way of attention rounds otherwise; a run that was padded goes on padded."""
    ours = with_stage(recipe, "sft")
    for way in ("dense", "padded"):
        with pytest.raises(Stop):
            run_of("sft", ours, rows, tmp_path / way, watch=stopping(5))
        file = tmp_path / way / ".sft.work" / "engine.json"
        runs.write_json(file, runs.read_json(file) | {"attention": way})
        assert run_of("sft", ours, rows, tmp_path / way).meta["engine"]["attention"] == way


def test_the_kept_history_is_on_disk_at_once(tmp_path):
    """Between the cut and the next logged step a reference may be computed for minutes; a kill there loses all."""
    old = [{"step": k, "split": "train", "metric": "loss", "value": 0.5} for k in (1, 2, 3)]
    file = tmp_path / "history.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in old) + '{"step": 3, "spl')
    recorder = training.Recorder(tmp_path, "SFT", watch=SILENT)
    recorder.go_on(2)
    assert [json.loads(line) for line in file.read_text().splitlines()] == old[:2]
    recorder.on_log(None, TrainerState(global_step=3, max_steps=5), None, logs={"loss": 0.25})
    recorder.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 3, 3]


def test_seconds_go_on_where_they_were(tmp_path):
    """The time before the stop counts; a curve over time must not fall back."""
    file = tmp_path / "history.jsonl"
    file.write_text(json.dumps({"step": 2, "split": "train", "metric": "seconds", "value": 100.0}) + "\n")
    recorder = training.Recorder(tmp_path, "SFT", watch=SILENT)
    recorder.go_on(2)
    recorder.on_log(None, TrainerState(global_step=3, max_steps=5), None, logs={"loss": 0.25})
    recorder.close()
    assert [row["metric"] for row in recorder.rows[-2:]] == ["seconds", "peak_gb"]
    assert 100.0 <= recorder.rows[-2]["value"] < 200.0


def test_a_run_after_a_bad_number_has_one_line_a_step(recipe, rows, cpu_fp32, undisturbed, tmp_path, monkeypatch):
    """The last good state keeps the work folder; without a state to go on from, its history must not stay."""
    ours, plain = with_stage(recipe, "sft", checkpoints=1), sft.RowTrainer.compute_loss
    straight = undisturbed(recipe, rows)

    def compute_loss(self, *args, **more):
        return plain(self, *args, **more) * (torch.nan if self.state.global_step == 2 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(sft.RowTrainer, "compute_loss", compute_loss)
        with pytest.raises(TrainingProblem, match="step 3: the loss is not finite"):
            run_of("sft", ours, rows, tmp_path / "b")
    again = run_of("sft", ours, rows, tmp_path / "b")
    assert lines(again) == lines(straight)
    assert not list(again.path.glob("checkpoints/last-good-*")), "of another run's end"


def test_a_state_holds_the_reference_s_adapter_where_there_is_one(recipe, rows, start, cpu_fp32, tmp_path):
    """Resumed without it, the start itself would be the reference only by luck."""
    ours = with_stage(recipe, "dpo", reference="on_the_fly")
    with pytest.raises(Stop):
        run_of("dpo", ours, rows, tmp_path, start, stopping(5))
    state = tmp_path / ".dpo.work" / "checkpoints" / "checkpoint-4"
    names = runs.read_json(state / "manifest.json")["files"]
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(
        names
    )
    loaded = models.load_adapter(models.load_4bit(recipe.model.base), state)
    assert training.first_bad([(n, p) for n, p in loaded.named_parameters() if "lora_" in n]) is None


CHILD = """
import sys
from pathlib import Path
import datasets
from hermes_nb import dpo, recipes, runtime, sft
runtime.quiet()
base, folder, out = sys.argv[1:]
few = {"rows_per_step": 4, "max_steps": 40, "checkpoints": 20, "max_length": 128, "reference": "cached"}
recipe = recipes.load("course", "tiny", overrides={"dpo": few, "model": {"base": base}, "needs_gb": 0})
rows = datasets.load_from_disk(folder)
dpo.train(recipe, rows, out, watch=lambda *a: None)
"""


@pytest.mark.slow
def test_a_real_kill_at_a_random_step_ends_in_the_same_bytes(tiny_base, tiny_cache, rows, tmp_path):
    """No clean-up, no last words: files are as they are."""
    rows["dpo"].save_to_disk(tmp_path / "rows")
    seed = int(time.time())
    env = os.environ | {"OMP_NUM_THREADS": "1", "HERMES_CACHE": str(tmp_path / "cache")}

    def child(out):
        command = [sys.executable, "-c", CHILD, tiny_base, str(tmp_path / "rows"), str(tmp_path / out)]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert child("a").wait() == 0
    killed, at = child("b"), random.Random(seed).randrange(6, 38)
    file = tmp_path / "b" / ".dpo.work" / "history.jsonl"
    while killed.poll() is None:
        if file.exists() and f'"step": {at},' in file.read_text():
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "b" / "dpo").exists()
    left = training.newest(tmp_path / "b" / ".dpo.work" / "checkpoints")
    assert left is not None, f"killed at step {at} (seed {seed}), no state was whole"
    assert child("b").wait() == 0
    a, b = (runs.Run(tmp_path / name / "dpo") for name in "ab")
    assert weights(a) == weights(b), f"killed at step {at} (seed {seed})"
    assert lines(a) == lines(b), f"killed at step {at} (seed {seed})"
