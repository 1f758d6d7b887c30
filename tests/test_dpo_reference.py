"""The reference computed once and found again. Run alone: python -m pytest tests/test_dpo_reference.py"""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dpo_losses import drawn_adapter
from test_packing import tiny
from test_packing_exact import with_lora

from hermes_nb import dpo, history, models, reference, runs
from hermes_nb.dpo import referring
from hermes_nb.dpo.proof import ERRORS, NOISE, TIMES
from hermes_nb.errors import FileProblem, RunProblem, TrainingProblem

pytestmark = pytest.mark.usefixtures("frozen")
SILENT = lambda *a: None  # noqa: E731
METRICS = ("loss", "margin", "reward_chosen", "reward_rejected", "grad_norm", "logp_chosen")


@pytest.fixture(scope="module")
def start(tiny_base, tmp_path_factory):
    return drawn_adapter(tiny_base, tmp_path_factory.mktemp("start"))


@pytest.fixture
def cached(recipe, tmp_path):
    """`cached(**more)`: the recipe with a stored reference in a folder of this test."""
    plain = {"reference": "cached", "reference_store": str(tmp_path / "store"), "max_steps": 1, "checkpoints": 0}
    return lambda **more: replace(recipe, dpo=replace(recipe.dpo, **(plain | more)))


@pytest.fixture
def scored(monkeypatch):
    """Pairs whose reference log-probabilities were computed, call by call, and whether a step was under way."""
    plain, calls = dpo.PairTrainer.compute_ref_log_probs, []

    def compute_ref_log_probs(self, model, inputs):
        calls.append((len(inputs["input_ids"]) // 2, torch.is_grad_enabled() and "ref_chosen_logps" in inputs))
        return plain(self, model, inputs)

    monkeypatch.setattr(dpo.PairTrainer, "compute_ref_log_probs", compute_ref_log_probs)
    return calls


def told(run) -> tuple[int, int]:
    facts = run.meta["engine"]["reference"]
    assert facts["seconds"] >= 0
    return facts["computed"], facts["found"]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_stored_reference_trains_the_same_run(fresh, recipe, cached, rows, start, tmp_path, cpu_fp32):
    """Two epochs in fp32, step by step: a value given to another pair would show in its second epoch at the latest."""
    two, runs_of = {"max_steps": 6, "learning_rate": 1e-3, "tokens_at_once": 130}, {}
    for way in ("on_the_fly", "cached"):
        ours = cached(reference=way, **two)
        runs_of[way] = dpo.train(ours, rows["dpo"], tmp_path / way, start=None if fresh else start, watch=SILENT)
    tables = {way: history.load(run.path) for way, run in runs_of.items()}
    for metric in METRICS:
        theirs, ours = (history.series(tables[way], metric) for way in ("on_the_fly", "cached"))
        assert len(ours) == 6
        assert ours.to_list() == pytest.approx(theirs.to_list(), rel=1e-4, abs=1e-5), metric
    theirs, ours = (load_file(run.adapter / "adapter_model.safetensors") for run in runs_of.values())
    assert all(torch.allclose(theirs[name], ours[name], atol=2e-4) for name in theirs)
    assert told(runs_of["cached"]) == (12, 0)
    assert "reference" not in runs_of["on_the_fly"].meta["engine"]


def test_later_runs_compute_nothing_but_the_proof(cached, rows, start, tmp_path, scored):
    """The reference depends on none of these; computed anew it would cost a third of a short run."""
    dpo.train(cached(), rows["dpo"], tmp_path / "first", start=start, watch=SILENT)
    assert sum(n for n, proof in scored if not proof) == 12
    changes = ({"learning_rate": 1e-3, "beta": 0.5}, {"epochs": 2.0, "max_steps": -1, "loss": ("ipo",)}, {})
    for k, more in enumerate(changes):
        ours = cached(**more) if more else replace(cached(), seed=7)
        scored.clear()
        run = dpo.train(ours, rows["dpo"], tmp_path / str(k), start=start, watch=SILENT)
        assert told(run) == (0, 12)
        assert scored
        assert all(proof for _, proof in scored)
        assert sum(n for n, _ in scored) == 4, "the pairs of step 0, once"


def test_new_pairs_alone_are_computed(cached, rows, tmp_path):
    """Twelve pairs of which eight are known; the same pair twice is computed once."""
    dpo.train(cached(), rows["dpo"].select(range(8)), tmp_path / "a", watch=SILENT)
    run = dpo.train(cached(), rows["dpo"].select([*range(12), 11]), tmp_path / "b", watch=SILENT)
    assert told(run) == (4, 8)


def test_held_out_pairs_are_scored_as_well(cached, rows, tmp_path, cpu_fp32):
    """TRL asks every batch for the stored columns; held-out metrics must be those without a store."""
    both = {"train": rows["dpo"].select(range(8)), "held_out": rows["dpo"].select(range(8, 12))}
    stored = dpo.train(cached(score_held_out=True), both, tmp_path / "a", watch=SILENT)
    assert told(stored) == (12, 0)
    plain = dpo.train(cached(score_held_out=True, reference="on_the_fly"), both, tmp_path / "b", watch=SILENT)
    for name in ("held_out_loss", "held_out_margin", "held_out_reward_chosen"):
        assert stored.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-4), name


def named(*items):
    return [(name, torch.full((2, 2), float(value))) for name, value in items]


def adapted():
    """A tiny model with the policy's adapter and the reference's, none of them 0."""
    from peft import LoraConfig

    model = with_lora(tiny("Llama"))
    model.add_adapter("ref", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model


def test_a_store_is_of_base_reference_adapter_layout_and_arithmetic():
    """Values of another model would move every reward; the policy's adapter is not part of the reference."""
    model = adapted()
    key, parameters = reference.key_of(model, "gather", "float32"), dict(model.named_parameters())

    def moved(part: str):
        """The key after one entry of one tensor has changed; it is put back."""
        tensor = next(p for n, p in parameters.items() if part in n and "layers.1" in n).data
        tensor[0, 0] += 1e-3
        other = reference.key_of(model, "gather", "float32")
        tensor[0, 0] -= 1e-3
        return {name for name in key if key[name] != other[name]}

    assert moved("lora_A.default") == set()
    assert moved("lora_B.ref") == {"reference adapter"}
    assert moved("base_layer") == {"base"}
    for name, other in (("layout", ("padded", "float32")), ("arithmetic", ("gather", "bfloat16"))):
        other = reference.key_of(model, *other)
        assert {n for n in key if key[n] != other[n]} == {name}
    model.delete_adapter("ref")
    assert reference.key_of(model, "gather", "float32")["reference adapter"] == "none"


def test_digests_tell_tensors_apart():
    """Name, shape, number format and every byte count; the order in which they come does not."""
    one = named(("a", 1), ("b", 2))
    assert reference.digest(one) == reference.digest(reversed(one))
    others = [named(("a", 1), ("b", 3)), named(("a", 2), ("b", 1)), named(("a", 1), ("c", 2)), one[:1],
              [("a", torch.ones(4)), one[1]], [("a", torch.ones(2, 2).bfloat16()), one[1]],
              [("a", torch.ones(2, 2).index_fill(0, torch.tensor([1]), 1 + 1e-7)), one[1]]]  # fmt: skip
    assert len({reference.digest(other) for other in [one, *others]}) == 8


def test_the_constants_of_4_bit_weights_count(tiny_base, tiny_cache):
    """The same 4-bit codes under other scales are another model."""
    from bitsandbytes.nn import Params4bit

    model = models.load_4bit(tiny_base)
    before = reference.digest(model.named_parameters())
    assert reference.digest(models.load_4bit(tiny_base).named_parameters()) == before
    weight = next(p for _, p in model.named_parameters() if isinstance(p, Params4bit))
    for tensor in (weight.quant_state.absmax, weight.quant_state.state2.absmax, weight.quant_state.offset):
        plain = tensor.clone()
        tensor += 1
        assert reference.digest(model.named_parameters()) != before
        tensor.copy_(plain)
    assert reference.digest(model.named_parameters()) == before


def test_rows_are_known_by_their_tokens_as_they_are_cut():
    """A longer prompt, an answer more or another cut is another pair."""
    key = reference.row_key([1, 2], [3], [4], 8)
    assert key == reference.row_key([1, 2], [3], [4], 9)
    others = [([1], [2, 3], [4], 8), ([1, 2], [4], [3], 8), ([1, 2], [3], [4, 5], 8), ([1, 2, 3], [], [4], 8)]
    assert len({key, *(reference.row_key(*other) for other in others)}) == 5
    long = reference.row_key([1, 2], [3, 4, 5], [6], 4)
    assert long == reference.row_key([1, 2], [3, 4, 9], [6], 4), "cut away at 4 tokens"
    assert long != reference.row_key([1, 2], [3, 4, 5], [6], 5)


def test_another_start_or_precision_has_a_store_of_its_own(cached, rows, start, tmp_path, monkeypatch, request):
    """In the cache stores lie side by side, each under its key."""
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    ours = cached(reference_store=None)
    for k, begun in enumerate((None, start)):
        assert told(dpo.train(ours, rows["dpo"], tmp_path / str(k), start=begun, watch=SILENT)) == (12, 0)
    request.getfixturevalue("cpu_fp32")
    assert told(dpo.train(ours, rows["dpo"], tmp_path / "2", start=start, watch=SILENT))[1] in (0, 12)
    stores = list((tmp_path / "cache" / "reference").iterdir())
    keys = [runs.read_json(folder / "key.json") for folder in stores]
    assert len({key["reference adapter"] for key in keys}) == 2
    assert len(stores) == len({tuple(key.values()) for key in keys})


def test_an_adapter_of_another_strength_has_a_store_of_its_own(cached, rows, start, tmp_path, monkeypatch):
    """The same tensors under another alpha are another model: it scales them."""
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    ours = cached(reference_store=None)
    dpo.train(ours, rows["dpo"], tmp_path / "a", start=start, watch=SILENT)
    other = shutil.copytree(start, tmp_path / "other")
    config = runs.read_json(other / "adapter_config.json")
    runs.write_json(other / "adapter_config.json", config | {"lora_alpha": 1.02 * config["lora_alpha"]})
    assert told(dpo.train(ours, rows["dpo"], tmp_path / "b", start=other, watch=SILENT)) == (12, 0)


def test_a_folder_of_another_reference_is_refused_by_name(cached, rows, start, tmp_path):
    """Mixed in one folder, no one could tell whose values they are."""
    dpo.train(cached(), rows["dpo"], tmp_path / "a", watch=SILENT)
    with pytest.raises(RunProblem, match=r"store: stored for another reference \(reference adapter: not the same\)"):
        dpo.train(cached(), rows["dpo"], tmp_path / "b", start=start, watch=SILENT)
    with pytest.raises(RunProblem, match=r"\(layout: not the same\)"):
        dpo.train(cached(packed=False), rows["dpo"], tmp_path / "c", watch=SILENT)


def test_what_was_computed_before_a_kill_is_kept(cached, rows, tmp_path, monkeypatch, scored):
    """Scoring a large set takes hours; a kill must not cost them."""
    ours, plain = cached(tokens_at_once=130), dpo.PairTrainer.compute_ref_log_probs
    monkeypatch.setattr(referring, "FLUSH", -1.0)
    with monkeypatch.context() as patch:

        def compute_ref_log_probs(self, model, inputs):
            if len(scored) == 2:
                raise KeyboardInterrupt
            return plain(self, model, inputs)

        patch.setattr(dpo.PairTrainer, "compute_ref_log_probs", compute_ref_log_probs)
        with pytest.raises(KeyboardInterrupt):
            dpo.train(ours, rows["dpo"], tmp_path / "a", watch=SILENT)
    kept = sum(n for n, _ in scored)
    assert 0 < kept < 12
    run = dpo.train(ours, rows["dpo"], tmp_path / "a", watch=SILENT)
    assert told(run) == (12 - kept, kept)


def test_a_file_that_was_not_finished_is_not_read(tmp_path):
    """A kill in mid-write leaves a part under another name."""
    store = reference.Store({"base": "a"}, tmp_path)
    store.add({"x": (-1.5, -2.5)})
    (tmp_path / "0123.part").write_bytes(b"PAR1")
    assert reference.Store({"base": "a"}, tmp_path).load() == {"x": (-1.5, -2.5)}


def spoil(folder, change):
    """Change the only file of a store, or delete it."""
    (file,) = folder.glob("*.parquet")
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    return file


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-40], lambda raw: b"", lambda raw: b"\0" * len(raw), lambda raw: raw[40:]]
)
def test_a_damaged_file_is_named(change, cached, rows, tmp_path):
    """One file of many; the others are worth hours."""
    dpo.train(cached(), rows["dpo"], tmp_path / "a", watch=SILENT)
    file = spoil(tmp_path / "store", change)
    with pytest.raises(FileProblem, match=f"{file.name}: damaged; delete it"):
        dpo.train(cached(), rows["dpo"], tmp_path / "b", watch=SILENT)


def test_no_flipped_byte_is_read_as_another_value(tmp_path):
    """A page of parquet has no checksum unless one is asked for: every byte of a file, flipped one by one."""
    store = reference.Store({"base": "a"}, tmp_path)
    kept = {f"{i:016x}": (-100.0 - i, -200.0 - i / 3) for i in range(4)}
    store.add(kept)
    (file,) = tmp_path.glob("*.parquet")
    raw, silent = file.read_bytes(), 0
    for at in range(len(raw)):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        try:
            silent += store.load() != kept
        except FileProblem:
            continue
    assert not silent, f"{silent} of {len(raw)} bytes flip into other values without a word"


@pytest.mark.parametrize("arithmetic", ["fp32", "this machine's"])
@pytest.mark.parametrize(("off", "refused"), [(5.0, True), (0.0, False)])
def test_step_0_tells_other_values_from_rounding(arithmetic, off, refused, cached, rows, start, tmp_path, request):
    """Five nats on one side is another model; the noise of another cut is not."""
    if arithmetic == "fp32":
        request.getfixturevalue("cpu_fp32")
    dpo.train(cached(), rows["dpo"], tmp_path / "a", start=start, watch=SILENT)
    store = reference.Store(runs.read_json(tmp_path / "store" / "key.json"), tmp_path / "store")
    known, draw = store.load(), torch.Generator().manual_seed(0)
    spoil(store.folder, None)
    noise = NOISE["float32"] * torch.randn(12, generator=draw)  # of one token; an answer has about ten
    store.add({row: (c, r + off + n) for (row, (c, r)), n in zip(known.items(), noise.tolist(), strict=True)})
    if refused:
        with pytest.raises(TrainingProblem, match="stored reference log-probabilities are not those of this reference"):
            dpo.train(cached(), rows["dpo"], tmp_path / "b", start=start, watch=SILENT)
        assert not (tmp_path / "b" / "dpo").exists()
    else:
        assert told(dpo.train(cached(), rows["dpo"], tmp_path / "b", start=start, watch=SILENT)) == (0, 12)


def test_step_0_tells_the_values_of_another_adapter(cached, rows, start, tmp_path, monkeypatch):
    """Told apart by the key; and if a key ever failed to, the proof would still not let them pass."""
    dpo.train(cached(), rows["dpo"], tmp_path / "a", start=start, watch=SILENT)
    other = shutil.copytree(start, tmp_path / "other") / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(other).items()}, other)
    with pytest.raises(RunProblem, match="reference adapter"):
        dpo.train(cached(), rows["dpo"], tmp_path / "b", start=other.parent, watch=SILENT)
    key = runs.read_json(tmp_path / "store" / "key.json")
    monkeypatch.setattr(reference, "key_of", lambda *a: key)
    with pytest.raises(TrainingProblem, match="not those of this reference"):
        dpo.train(cached(), rows["dpo"], tmp_path / "c", start=other.parent, watch=SILENT)


@pytest.mark.parametrize(
    ("how", "rows", "stored"),
    [({"epochs": 1.0}, 100, False), ({"epochs": 1.5}, 100, True), ({"epochs": 3.0}, 100, True),
     ({"max_steps": 25, "epochs": 3.0}, 100, False), ({"max_steps": 26}, 100, True),
     ({"reference": "cached"}, 100, True), ({"reference": "on_the_fly", "epochs": 3.0}, 100, False)],
)  # fmt: skip
def test_auto_stores_what_is_seen_more_than_once(how, rows, stored, recipe, tmp_path):
    """4 rows a step: 25 steps see each of 100 pairs once, where storing saves nothing."""
    stage = replace(recipe.dpo, **({"max_steps": -1, "rows_per_step": 4} | how))
    assert dpo.PairEngine(stage, tmp_path).stored(rows) == stored


# the second proof by hand


def off_by(*units: float, tokens=4, dtype="float32"):
    """The proof of values off by so many units of rounding noise: `NOISE` times the square root of a length."""
    tokens = torch.full((len(units),), tokens)
    off = torch.tensor(units, dtype=torch.float64) * NOISE[dtype] * tokens.sqrt()
    return dpo.prove_stored(off, torch.zeros(len(units), dtype=torch.float64), tokens, dtype)


def test_deviations_are_measured_in_rounding_noise():
    """Answers of 4 and 9 tokens: units of 2 and 3 times the noise of one token. Off by +2 and -3 of it: 1 and -1 unit.

    Root mean square 1, mean 0. Off by 2 units and 0: root mean square sqrt 2, bias mean * sqrt n = sqrt 2.
    """
    off, zero = NOISE["float32"] * torch.tensor([2.0, -3.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    even = dpo.prove_stored(off, zero, torch.tensor([4, 9]), "float32")
    assert even == {"spread": pytest.approx(1.0), "bias": pytest.approx(0.0, abs=1e-9)}
    assert off_by(2.0, 0.0) == {"spread": pytest.approx(math.sqrt(2)), "bias": pytest.approx(math.sqrt(2))}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_limit_is_in_units_of_each_number_format(dtype):
    """Just under and just over, with signs that cancel; coarser formats may deviate further."""
    off_by(0.98 * TIMES, -0.98 * TIMES, tokens=16, dtype=dtype)
    with pytest.raises(TrainingProblem, match=f"{1.02 * TIMES:.1f} times the rounding noise of {dtype}"):
        off_by(1.02 * TIMES, -1.02 * TIMES, tokens=16, dtype=dtype)
    assert NOISE["float32"] < NOISE["float16"] < NOISE["bfloat16"]


def test_a_small_deviation_to_one_side_is_a_bias():
    """1.5 units on each of 64 answers: root mean square 1.5 passes, bias 1.5 * sqrt 64 = 12 standard errors does not.

    Of 9 answers it is 4.5, within the limit; with alternating signs it is 0.
    """
    assert TIMES > 1.5
    assert 4.5 < ERRORS < 12
    for sign, told in ((1, r"\+12.0"), (-1, "-12.0")):
        with pytest.raises(TrainingProblem, match=f"1.5 times the rounding noise of float32, bias {told} "):
            off_by(*[sign * 1.5] * 64)
    assert off_by(*[1.5] * 9)["bias"] == pytest.approx(4.5)
    assert off_by(*[1.5, -1.5] * 32)["bias"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value):
    """NaN is not small."""
    with pytest.raises(TrainingProblem):
        off_by(0.0, value)
