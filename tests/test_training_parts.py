"""Out of memory, and several processes. Run alone: python -m pytest tests/test_training_parts.py"""

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from test_dpo_losses import batch, losses, ragged, same_gradients, step, trainer_of

from hermes_nb import dpo, packing, runs, sft, training
from hermes_nb.errors import ResourceProblem, TrainingProblem
from hermes_nb.training import Budget, cut, into

pytestmark = pytest.mark.usefixtures("frozen")
OUT = {
    "GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": lambda: RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"
    ),
}
SILENT = lambda *a: None  # noqa: E731


@pytest.fixture(scope="module")
def pairs(tiny_base, tmp_path_factory):
    trainer = trainer_of(dpo.PairTrainer, tiny_base, ragged(), tmp_path_factory.mktemp("parts"))
    losses(trainer, ["sigmoid", "sft"])
    return trainer


@pytest.fixture
def whole(pairs):
    """The undisturbed step; the budget is whole before and after the test."""
    pairs.budget, pairs.rows_at_once = Budget(sys.maxsize, "test"), 0
    yield step(pairs)
    pairs.budget = Budget(sys.maxsize, "test")


def small_memory(monkeypatch, trainer, room: int, error=OUT["GPU"], after=False):
    """Memory for a part of `room` tokens; what did not fit is listed. `after`: it runs out when backward begins."""
    plain, refused = trainer.compute_loss, []

    def compute_loss(model, inputs, *args, **more):
        tokens = sum(trainer.sizes(inputs))
        if tokens > room and not after:
            refused.append(tokens)
            raise error()
        loss = plain(model, inputs, *args, **more)
        if tokens > room:
            refused.append(tokens)
            loss.register_hook(lambda grad: (_ for _ in ()).throw(error()))
        return loss

    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    return refused


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", OUT)
def test_memory_running_out_halves_the_budget_and_changes_no_number(kind, after, pairs, whole, monkeypatch, capsys):
    """A step that is begun anew must not keep gradients, metrics or token counts of the first try."""
    loss, gradients, logged = whole
    sizes = pairs.sizes(batch(pairs))
    refused = small_memory(monkeypatch, pairs, max(sizes) + min(sizes), OUT[kind], after)
    kept = []
    monkeypatch.setattr(pairs, "keep_budget", kept.append)
    got, own, mine = step(pairs)
    assert refused
    assert refused[0] == sum(sizes)
    assert kept[-1] == pairs.budget
    assert pairs.budget.tokens == sum(sizes) // 2 ** len(kept)
    assert pairs.budget.halvings == len(kept)
    assert capsys.readouterr().out.count("note: out of memory") == len(kept)
    assert got == pytest.approx(loss, rel=1e-5)
    same_gradients(gradients, own)
    assert mine == pytest.approx(logged, rel=1e-4, abs=1e-6)
    assert all(len(values) == 1 for values in pairs._metrics["train"].values())
    assert pairs._total_train_tokens == batch(pairs)["attention_mask"].sum()


def test_a_step_that_fails_in_its_last_part_is_begun_anew(pairs, whole, monkeypatch):
    """Gradients of the parts that went well are in place already when the last one fails."""
    _, gradients, logged = whole
    sizes, plain, calls = pairs.sizes(batch(pairs)), pairs.compute_loss, []
    pairs.budget = Budget(sum(sizes) // 2 + 1, "test")
    last = len(pairs._parts(sizes))

    def compute_loss(*args, **more):
        calls.append(1)
        if len(calls) == last:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args, **more)

    monkeypatch.setattr(pairs, "compute_loss", compute_loss)
    _, own, mine = step(pairs)
    assert last > 1
    assert len(calls) > last
    same_gradients(gradients, own)
    assert mine == pytest.approx(logged, rel=1e-4, abs=1e-6)


def test_metrics_of_steps_that_are_not_logged_yet_survive(pairs, whole, monkeypatch):
    """With `logging_steps` of 2 the first step's metrics wait in the same lists that the retry shortens."""
    _, _, logged = whole
    waiting = {name: len(values) for name, values in pairs._metrics["train"].items()}
    sizes = pairs.sizes(batch(pairs))
    small_memory(monkeypatch, pairs, max(sizes) + min(sizes))
    pairs.training_step(pairs.model, batch(pairs))
    for name, values in pairs._metrics["train"].items():
        if name != "num_tokens":  # a running total
            assert len(values) == 2 * waiting[name] == 2
            assert values == pytest.approx([logged[name]] * 2, rel=1e-4, abs=1e-6), name
    assert pairs._metrics["train"]["num_tokens"] == [2 * logged["num_tokens"]]


def test_a_row_that_does_not_fit_alone_is_said(pairs, whole, monkeypatch):
    """Halved for ever, the run would hang."""
    sizes = pairs.sizes(batch(pairs))
    refused = small_memory(monkeypatch, pairs, max(sizes) - 1)
    with pytest.raises(ResourceProblem, match=f"one row of {max(sizes)} tokens does not fit; lower max_length"):
        step(pairs)
    assert len(refused) < 12


def test_other_errors_are_not_taken_for_a_full_memory(pairs, whole, monkeypatch):
    """A shape that does not fit would be tried again with smaller parts, and its message lost."""

    def broken(*args, **more):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(pairs, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step(pairs)
    assert pairs.budget.halvings == 0


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_run_records_the_halved_budget_and_ends_as_the_undisturbed_one(
    stage, recipe, rows, cpu_fp32, tmp_path, monkeypatch, capsys
):  # fmt: skip
    """What resumes must be cut as it was; `run.json` says why a run was slower."""
    kind, train = (sft.RowTrainer, sft.train) if stage == "sft" else (dpo.PairTrainer, dpo.train)
    undisturbed = train(recipe, rows[stage], tmp_path / "a", watch=SILENT)
    plain, room = kind.compute_loss, []

    def compute_loss(self, model, inputs, *args, **more):
        if "completion_mask" in inputs or "labels" in inputs:
            sizes = self.sizes(inputs)
            room.append(sum(sizes))
            if model.training and sum(sizes) > 0.6 * max(room):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, model, inputs, *args, **more)

    monkeypatch.setattr(kind, "compute_loss", compute_loss)
    run = train(recipe, rows[stage], tmp_path / "b", watch=SILENT)
    assert capsys.readouterr().out.count("note: out of memory") == 1
    budget = runs.read_json(run.path / "engine.json")["budget"]
    assert budget == run.meta["engine"]["budget"]
    assert budget["halvings"] == 1
    assert budget["reason"] == "out of memory"
    assert budget["tokens"] < undisturbed.meta["engine"]["budget"]["tokens"]
    for name in ("train_loss", "train_tokens", "train_grad_norm"):
        assert run.metrics[name] == pytest.approx(undisturbed.metrics[name], rel=2e-3), name


def test_memory_that_runs_out_while_the_budget_is_measured_is_no_end(recipe, rows, cpu_fp32, tmp_path, monkeypatch):
    """What fits is an estimate, and for a model of unknown shape none at all: measuring must find out, not fall."""
    from hermes_nb.training import budget

    monkeypatch.setattr(budget, "SMALL", 64)
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    plain = sft.RowTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **more):
        if sum(self.sizes(inputs)) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, model, inputs, *args, **more)

    monkeypatch.setattr(sft.RowTrainer, "compute_loss", compute_loss)
    run = sft.train(recipe, rows["sft"], tmp_path, watch=SILENT)
    assert run.meta["engine"]["budget"]["tokens"] <= 100


def test_memory_that_runs_out_while_the_reference_is_computed_is_no_end(
    recipe, rows, cpu_fp32, tmp_path, monkeypatch
):  # fmt: skip
    """The same parts as in training, so the same remedy."""
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    plain = dpo.PairTrainer.compute_ref_log_probs

    def compute_ref_log_probs(self, model, inputs):
        if sum(self.sizes(inputs)) > 130:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, model, inputs)

    monkeypatch.setattr(dpo.PairTrainer, "compute_ref_log_probs", compute_ref_log_probs)
    run = dpo.train(
        replace(recipe, dpo=replace(recipe.dpo, reference="cached")), rows["dpo"], tmp_path, watch=SILENT
    )  # fmt: skip
    assert run.meta["engine"]["reference"]["computed"] == 12


def test_a_part_that_is_no_number_is_not_counted_as_full(pairs, whole, monkeypatch):
    """NaN must stop the run, whatever part it is in."""
    plain = pairs.compute_loss
    monkeypatch.setattr(pairs, "compute_loss", lambda *a, **k: plain(*a, **k) * torch.nan)
    with pytest.raises(TrainingProblem, match="the loss is not finite"):
        step(pairs)


# several processes: their gradients are averaged, so each must know what the others hold


class Several:
    """An accelerator of two processes, of which this is the first; the other tells its number for each gather."""

    def __init__(self, plain, told):
        self.plain, self.told, self.synced = plain, list(told), []
        self.num_processes = 2

    def __getattr__(self, name):
        return getattr(self.plain, name)

    def gather(self, tensor):
        return torch.cat([tensor, torch.tensor([self.told.pop(0)], dtype=tensor.dtype)]) if self.told else tensor

    @contextmanager
    def no_sync(self, model):
        self.synced.append("quiet")
        yield

    def backward(self, loss, **more):
        self.synced.append("backward")
        self.plain.backward(loss, **more)


def test_every_process_makes_as_many_parts(pairs, whole, monkeypatch):
    """What is gathered for the metrics is gathered once a part: one part less, and the others wait for ever."""
    monkeypatch.setattr(pairs, "accelerator", Several(pairs.accelerator, [5]))
    parts = pairs._parts(pairs.sizes(batch(pairs)))
    assert len(parts) == 5
    assert [row for part in parts for row in part] == list(range(8))
    pairs.accelerator.told = [1]
    assert len(pairs._parts(pairs.sizes(batch(pairs)))) == 1


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_gradients_are_exchanged_with_the_last_part_only(parts, pairs, whole, monkeypatch):
    """Exchanged with every part, a step of 8 parts would send 8 times as much."""
    monkeypatch.setattr(pairs, "accelerator", Several(pairs.accelerator, [parts]))
    losses(pairs, ["sigmoid"])
    monkeypatch.setattr(pairs, "_over_processes", lambda own: own)
    step(pairs)
    losses(pairs, ["sigmoid", "sft"])
    assert pairs.accelerator.synced == ["quiet", "backward"] * (parts - 1) + ["backward"]


def test_shares_are_of_the_processes_mean(pairs, whole, monkeypatch):
    """Of 8 pairs here and 4 there, 2 count 2 / 6: averaged over two processes, every pair of the 12 counts 1 / 12."""
    monkeypatch.setattr(pairs, "accelerator", Several(pairs.accelerator, [4]))
    assert pairs.share(batch(pairs), [0, 1]) == pytest.approx(2 / 6)


def test_sft_inside_a_step_of_several_processes_counts_by_all_their_tokens(pairs, whole, monkeypatch):
    """Weight of `sft` times the share of the part = tokens of the part over the mean tokens of a process."""
    inputs = batch(pairs)
    tokens = inputs["completion_mask"][:8, 1:].sum(1)
    monkeypatch.setattr(pairs, "accelerator", Several(pairs.accelerator, [100.0, 8.0, 8.0]))
    with pairs.weighing(inputs, [0, 1]):
        weight = dict(zip(pairs.loss_types, pairs.loss_weights, strict=True))
    mean = (tokens.sum().item() + 100) / 2
    assert weight["sigmoid"] == 1
    assert weight["sft"] * (2 / 8) == pytest.approx(tokens[:2].sum().item() / mean)


@pytest.mark.parametrize("count", range(1, 10))
def test_parts_are_made_more_without_losing_a_row(count):
    """As many parts as asked, or a row each; order and rows stay."""
    parts = into([[0, 1, 2], [3], [4, 5, 6, 7]], count)
    assert len(parts) == min(8, max(3, count))
    assert [row for part in parts for row in part] == list(range(8))
    assert all(parts)


def test_parts_hold_every_row_once_within_the_budget():
    """Against a plain reading of the promise, on 200 random steps."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = torch.randint(1, 50, (int(torch.randint(1, 12, (1,), generator=draw)),), generator=draw).tolist()
        tokens, rows = (int(torch.randint(1, 120, (1,), generator=draw)) for _ in range(2))
        parts = cut(sizes, tokens, rows % 4)
        assert [row for part in parts for row in part] == list(range(len(sizes)))
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            held = sum(sizes[i] for i in part)
            assert held <= tokens or len(part) == 1
            assert not rows % 4 or len(part) <= rows % 4
            if following:  # no part is closed too early
                assert held + sizes[following[0]] > tokens or len(part) == rows % 4


@pytest.mark.parametrize("step_tokens", [300, 1000])
def test_a_budget_is_halved_from_what_is_in_use(step_tokens):
    """A budget of `sys.maxsize` halved fifty times would try the same step fifty times."""
    assert Budget(sys.maxsize, "whole").halved(step_tokens).tokens == step_tokens // 2
    assert Budget(200, "").halved(step_tokens) == Budget(100, "out of memory", 1)


def test_measuring_leaves_no_trace(pairs, whole):
    """The measured passes must not be in the gradients, the metrics, the counts or the random state of the run."""
    from hermes_nb.training.engine import timed

    pairs.model.zero_grad()
    logged, tokens = {k: list(v) for k, v in pairs._metrics["train"].items()}, pairs._total_train_tokens
    pairs.model.eval()
    before = torch.get_rng_state()
    assert timed(pairs, 200) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert not pairs.model.training
    assert all(p.grad is None or not p.grad.any() for p in pairs.model.parameters())
    assert pairs._metrics["train"] == logged
    assert pairs._total_train_tokens == tokens


def test_lengths_are_those_of_the_packed_row(pairs):
    """The budget is planned by them."""
    inputs = batch(pairs)
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    packed = packing.pack(inputs["input_ids"], inputs["attention_mask"], labels)
    assert sum(size for size, _ in pairs.lengths()) == packed.ids.shape[1]
    assert max(side for _, side in pairs.lengths()) == packed.width
    assert training.StepInParts.whole_step(pairs) is None
