"""Run alone: python -m pytest tests/test_estimate.py"""

import json
import os
from pathlib import Path

import pytest

from hermes_nb import estimate, recipes, roofline, runtime
from hermes_nb.errors import RecipeProblem
from hermes_nb.models import nf4


def test_known_models_have_their_known_sizes():
    """A shape with one wrong number would make every figure below it wrong.

    Mistral-7B, a layer: q and o 4096 x 4096 = 16,777,216 each, k and v 4096 x 1024 = 4,194,304 each, three times
    4096 x 14336 = 58,720,256: 218,103,808. Times 32, plus two embeddings of 131,072,000 and 65 norms of 4096:
    7,241,732,096, as the hub says. SmolLM2: 3,538,944 x 30 + 28,311,552 + 61 x 576 = 134,515,008.
    """
    assert estimate.parameters(estimate.MISTRAL_7B) == 7_241_732_096
    assert estimate.parameters(estimate.SMOLLM2_135M) == 134_515_008


def test_lora_of_one_layer_by_hand():
    """r (in + out), not r in out: a 4 x 6 layer at r = 2 has A of 2 x 4 = 8 and B of 6 x 2 = 12, together 20."""
    assert estimate.lora_parameters([(4, 6)], 2) == 20


def test_the_adapter_is_counted_as_peft_makes_it(tiny_base):
    """A formula that PEFT does not follow predicts another model's adapter."""
    from transformers import AutoModelForCausalLM

    from hermes_nb import models, recipes

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    shape = estimate.shape_of(model.config)
    assert estimate.parameters(shape) == model.num_parameters()
    counts = []
    for targets in ("all-linear", ("q_proj", "v_proj")):
        wrapped = models.add_lora(model, recipes.Lora(r=3, alpha=6, targets=targets))
        counts.append(wrapped.get_nb_trainable_parameters()[0])
        model = wrapped.unload()
    named = estimate.linear_shapes(shape), estimate.linear_shapes(shape, ("q_proj", "v_proj"))
    assert counts == [estimate.lora_parameters(shapes, 3) for shapes in named]


def test_rows_of_the_known_models_are_whole_blocks():
    """bitsandbytes 0.50.2 restores wrong weights on a CPU when a row is not a whole number of blocks of 64."""
    for shape in (estimate.MISTRAL_7B, estimate.SMOLLM2_135M):
        assert all(fan_in % nf4.BLOCK == 0 for fan_in, _ in estimate.linear_shapes(shape))


def test_full_training_takes_16_bytes_a_parameter():
    """ZeRO, section 3.1: 2 + 2 + 12; a billion parameters take 16 GB before any activation."""
    parts = estimate.ledger(10**9, 0, "full")
    assert parts == {"weights": 2.0, "adapter": 0.0, "gradient": 2.0, "optimizer": 12.0, "activations": 0.0}


def test_lora_and_qlora_by_hand():
    """The adapter costs 16 bytes a number, the frozen weights 2 or about half a byte.

    10^9 weights, 10^7 adapter numbers: 2 GB; 0.04 + 0.04 + 0.08 GB. In 4 bits with 2 x 10^8 left at 16 bits:
    0.8 x 10^9 x 4.127 / 8 = 0.4127 GB, plus 0.4 GB.
    """
    lora = estimate.ledger(10**9, 10**7, "lora", activations_gb=1.5)
    assert list(lora.values()) == pytest.approx([2.0, 0.04, 0.04, 0.08, 1.5])
    qlora = estimate.ledger(10**9, 10**7, "qlora", unquantized=2 * 10**8)
    assert qlora["weights"] == pytest.approx(0.8127, abs=1e-4)
    assert list(qlora.values())[1:4] == list(lora.values())[1:4]


def test_bits_agree_with_the_lesson_on_nf4():
    """Two modules, one number: 4.127."""
    assert nf4.bits() == estimate.NF4_BITS


def test_qlora_of_7b_fits_where_full_training_does_not():
    """The reason for 4 bits: full training of 7.24 billion takes 115.9 GB before activations, QLoRA under 8."""
    found = estimate.ledgers(estimate.MISTRAL_7B, r=16, tokens=1024)
    sums = {m: sum(p.values()) - p["activations"] for m, p in found.items()}
    assert sums["full"] == pytest.approx(115.9, abs=0.1)
    assert sums["lora"] == pytest.approx(14.48 + 0.67, abs=0.02)  # 41,943,040 adapter numbers at 16 bytes
    assert sums["qlora"] < 8


def test_activations_grow_with_tokens_and_shrink_with_checkpointing():
    """An estimate that ignores either would promise a batch that does not fit.

    SmolLM2, 100 tokens, with checkpointing: 57,600 x (60 + 34) + 100 x 49,152 x 8 = 5,414,400 + 39,321,600 bytes.
    """
    tight = estimate.activations_gb(estimate.SMOLLM2_135M, 100)
    assert tight == pytest.approx(0.044736, abs=1e-6)
    assert estimate.activations_gb(estimate.SMOLLM2_135M, 200) == pytest.approx(2 * tight)
    assert estimate.activations_gb(estimate.SMOLLM2_135M, 100, checkpointing=False) > 2 * tight


def test_unknown_names_are_refused():
    """A mistyped method must not be counted as another."""
    with pytest.raises(RecipeProblem, match="full, lora, qlora"):
        estimate.ledger(1, 1, "dora")
    with pytest.raises(RecipeProblem, match="q_proj"):
        estimate.linear_shapes(estimate.MISTRAL_7B, ["wte"])


LENGTHS = json.loads((runtime.samples_dir() / "lengths.json").read_text(encoding="utf-8"))
KINDS = {
    "ultrafeedback": ("plain_pairs", ["ultrafeedback_binarized_triples"]),
    "hh": ("hh_rlhf", ["hh_rlhf_helpful_base", "hh_rlhf_helpful_online"]),
    "orca": ("orca_dpo_pairs", ["orca_dpo_pairs"]),
}
A100 = roofline.gpu("a100-40")
OPENHERMES = estimate.SHAPES["teknium/OpenHermes-2.5-Mistral-7B"]


@pytest.fixture
def even(monkeypatch):
    """Every measured pair has 100 + 50 and 100 + 30 tokens."""
    from hermes_nb.estimate import rows

    monkeypatch.setattr(rows, "lengths", lambda kind: [(100, 50, 30)] * 128)


def neuralhermes(*overrides):
    return recipes.load("neuralhermes", "a100", overrides=overrides)


def test_lengths_are_numbers_and_nothing_else():
    """The public sets' texts stay where they are."""
    for kind in KINDS:
        assert len(LENGTHS[kind]) == 128 <= LENGTHS["real_rows"][kind]
        assert all(len(one) == 3 and all(type(n) is int and n > 0 for n in one) for one in LENGTHS[kind])
        assert estimate.lengths(kind)[0] == tuple(LENGTHS[kind][0])
    assert set(LENGTHS) == {*KINDS, "columns", "unit", "tokenizer", "max_length", "real_rows"}
    with pytest.raises(RecipeProblem, match="orca"):
        estimate.lengths("tldr")


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("HERMES_REAL_DATA"), reason="HERMES_REAL_DATA names no folder of real rows")
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_those_of_the_real_rows(kind):
    """Numbers without rows behind them would be invented; 128 are taken, evenly spread."""
    from hermes_nb import formats, models, templates

    source, files = KINDS[kind]
    tokenizer = models.tokenizer("builtin", "chatml")
    paths = [Path(os.environ["HERMES_REAL_DATA"]) / f"{name}.jsonl" for name in files]
    pairs = [templates.pair_ids(tokenizer, row) for path in paths for row in formats.read(source, path).rows]
    assert len(pairs) == LENGTHS["real_rows"][kind]
    assert [[len(part) for part in pairs[k * len(pairs) // 128]] for k in range(128)] == LENGTHS[kind]


def test_a_padded_recipe_by_hand(even):
    """200 steps of 16 pairs in micro-batches of 4: 3200 x 180 real tokens, 3200 x 2 x 150 laid.

    Time: the FLOPs of 800 such micro-batches at 31 % of the peak, and for each of them four passes over the NF4
    weights: forward, backward, recomputing, reference.
    """
    told = estimate.recipe(neuralhermes("dpo.packed=false"), A100)
    (stage,) = told["stages"]
    assert (stage["rows"], stage["seen"], stage["layout"]) == (12_859, 3200, "padded")
    assert (stage["tokens"], stage["tokens_padded"]) == (3200 * 180, 3200 * 300)
    flops = 800 * roofline.dpo_flops(OPENHERMES, [(100, 50, 30)] * 4, checkpointing=True, layout="padded")
    assert stage["flops"] == pytest.approx(flops)
    passes = 800 * 4 * roofline.dequantization_seconds(OPENHERMES, A100)
    assert told["seconds"] == stage["seconds"] == pytest.approx(flops / (0.31 * 312e12) + passes)
    assert "12,859 rows as published; lengths of real orca rows" in stage["notes"][0]


def test_a_packed_recipe_by_hand(even):
    """A step of 16 pairs is 2880 tokens, which fit at once; with 1000 tokens at once it takes three parts."""
    whole = estimate.recipe(neuralhermes("dpo.packed=true"), A100)["stages"][0]
    flops = 200 * roofline.dpo_flops(OPENHERMES, [(100, 50, 30)] * 16, checkpointing=True)
    assert (whole["layout"], whole["rows_at_once"], whole["flops"]) == ("packed", 16, pytest.approx(flops))
    pass_ = roofline.dequantization_seconds(OPENHERMES, A100)
    assert whole["seconds"] == pytest.approx(flops / (0.31 * 312e12) + 200 * 4 * pass_)
    cut = estimate.recipe(neuralhermes("dpo.packed=true", "dpo.tokens_at_once=1000"), A100)["stages"][0]
    assert cut["seconds"] - whole["seconds"] == pytest.approx(200 * 2 * 4 * pass_)
    assert cut["memory_gb"]["activations"] < whole["memory_gb"]["activations"]


def test_pairs_seen_again_have_their_reference_cached(even):
    """Two epochs: every pair is trained on twice, and scored by the reference once."""
    two = ("dpo.max_steps=-1", "dpo.epochs=2", "dpo.packed=true")
    (stage,) = estimate.recipe(neuralhermes(*two), A100)["stages"]
    assert (stage["seen"], stage["reference"]) == (2 * 12_859, "cached")
    pairs = [(100, 50, 30)]
    once = roofline.dpo_flops(OPENHERMES, pairs, checkpointing=True, reference="cached")
    scored = roofline.reference_flops(OPENHERMES, pairs)
    assert stage["flops"] == pytest.approx(12_859 * (2 * once + scored))
    (live,) = estimate.recipe(neuralhermes(*two, "dpo.reference=on_the_fly"), A100)["stages"]
    assert live["flops"] == pytest.approx(12_859 * 2 * (once + scored))


def test_memory_follows_the_sizes(even):
    """4.1 GB of weights, 0.7 of adapter and optimizer; 64 padded pairs at once do not fit a T4, packed ones are cut."""
    small = estimate.recipe(neuralhermes("dpo.rows_per_device=1", "dpo.packed=false"), roofline.gpu("t4"))
    memory = small["stages"][0]["memory_gb"]
    assert memory["weights"] == pytest.approx(4.13, abs=0.01)
    assert memory["adapter"] == pytest.approx(16 * 41_943_040 / 1e9)
    assert small["fits"]
    large = ("dpo.rows_per_step=64", "dpo.rows_per_device=64", "dpo.gradient_checkpointing=false")
    assert not estimate.recipe(neuralhermes(*large, "dpo.packed=false"), roofline.gpu("t4"))["fits"]
    packed = estimate.recipe(neuralhermes(*large, "dpo.packed=true"), roofline.gpu("t4"))
    assert packed["fits"]
    assert packed["stages"][0]["rows_at_once"] < 64


def test_rows_that_are_too_long_are_dropped_or_cut(monkeypatch):
    """The audit drops them; a recipe that cuts keeps them all, shorter."""
    from hermes_nb.estimate import rows

    monkeypatch.setattr(rows, "lengths", lambda kind: [(100, 50, 30), (100, 950, 30)])
    (dropped,) = estimate.recipe(neuralhermes("dpo.max_length=500"), A100)["stages"]
    assert (dropped["rows"], dropped["tokens"]) == (6430, 3200 * 180)
    (cut,) = estimate.recipe(neuralhermes("dpo.max_length=500", "dpo.too_long=cut"), A100)["stages"]
    assert (cut["rows"], cut["tokens"]) == (12_859, 3200 * (180 + 530) // 2)
    with pytest.raises(RecipeProblem, match="every row"):
        estimate.recipe(neuralhermes("dpo.max_length=100"), A100)


def test_several_sets_are_mixed_by_their_sizes(even):
    """A mixture's length is that of its parts, each with its own stand-in."""
    sets = "dpo.train=[{source: orca_dpo_pairs, limit: 1000}, {source: ultrafeedback_binarized, share_of_source: 0.1}]"
    (stage,) = estimate.recipe(neuralhermes(sets), A100)["stages"]
    assert stage["rows"] == 1000 + 6113
    assert len(stage["notes"]) == 2
    assert "real ultrafeedback rows" in stage["notes"][1]


def test_local_files_are_counted_and_measured(tmp_path, plain_tokenizer, monkeypatch):
    """Short rows of one's own must not be taken for UltraFeedback's."""
    from hermes_nb import models, templates

    monkeypatch.setattr(models, "tokenizer", lambda base, template: templates.fit(plain_tokenizer, template))
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path))
    file = tmp_path / "mine.jsonl"
    row = {"system": "", "question": "the model", "chosen": "bread", "rejected": "rain today"}
    file.write_text("".join(json.dumps(row | {"chosen": "bread " * (1 + k)}) + "\n" for k in range(10)))
    source = f"dpo.train=[{{source: orca_dpo_pairs, path: {file}}}]"
    (stage,) = estimate.recipe(neuralhermes(source, "dpo.max_steps=-1"), A100)["stages"]
    assert stage["rows"] == stage["seen"] == 10
    assert "10 rows, 10 measured" in stage["notes"][0]
    lengths = [
        sum(map(len, templates.pair_ids(plain_tokenizer, one)))
        for one in ({"prompt": [{"role": "user", "content": "the model"}],
                     "chosen": [{"role": "assistant", "content": "bread " * (1 + k)}],
                     "rejected": [{"role": "assistant", "content": "rain today"}]} for k in range(10))
    ]  # fmt: skip
    assert stage["tokens"] == pytest.approx(sum(lengths), rel=0.1)


@pytest.mark.slow
def test_the_course_is_estimated_at_every_scale():
    """Both stages, from the sample rows."""
    for scale, gpu in (("tiny", "t4"), ("t4", "t4"), ("a100", "h200")):
        told = estimate.recipe(recipes.load("course", scale), roofline.gpu(gpu))
        assert [stage["stage"] for stage in told["stages"]] == ["sft", "dpo"]
        assert told["fits"]
        assert told["seconds"] == sum(stage["seconds"] for stage in told["stages"])
        assert "pairs_train.jsonl: 200 rows" in estimate.text(told)


def test_scales_follow_the_gpu():
    """Sizes for 16 GB on a card of 80 would say nothing of what it can do."""
    scales = {name: estimate.scale_for(gpu) for name, gpu in roofline.GPUS.items()}
    assert {name for name, scale in scales.items() if scale == "t4"} == {"t4", "l4", "rtx4090"}


def test_a_measured_share_goes_before_the_assumption(tmp_path, monkeypatch):
    """A figure of another chip, or of none, must not be taken for this one's."""
    from hermes_nb.estimate import reaching

    monkeypatch.setattr(reaching, "samples_dir", lambda: tmp_path)
    (tmp_path / "benchmarks").mkdir()
    assert estimate.speed(A100).share == estimate.ASSUMED
    for name, told in {
        "dpo_a": {"machine": "NVIDIA A100-SXM4-40GB", "share_of_roofline": 0.44},
        "dpo_b": {"machine": "NVIDIA A100-SXM4-40GB", "share_of_roofline": 0.42},
        "dpo_cpu": {"machine": "AMD EPYC", "share_of_roofline": 0.9},
        "dpo_old": {"machine": "NVIDIA A100-SXM4-40GB"},
    }.items():
        (tmp_path / "benchmarks" / f"{name}.json").write_text(json.dumps(told))
    found = estimate.speed(A100)
    assert (found.share, found.measured) == (0.42, True)
    assert "dpo_b.json" in found.origin
    assert found.seconds(0.42 * 312e12, A100, estimate.MISTRAL_7B, passes=100) == pytest.approx(1)
    other = estimate.speed(roofline.gpu("h200"))
    assert not other.measured
    assert "assumed" in other.origin


def test_the_assumed_share_is_the_published_one():
    """2,415 tokens/s of LLaMA-2-7B on an A100, rank 8, rows of 1024, recomputing counted."""
    shape = estimate.SHAPES["LLM360/AmberChat"]  # LLaMA-7B's sizes
    assert estimate.parameters(shape) == 6_738_415_616
    adapter = roofline.adapter_parameters(shape, 8)
    flops = roofline.training(shape, roofline.token(1024, 1.0), adapter, checkpointing=True)
    assert 2415 * flops / A100.peak == pytest.approx(estimate.ASSUMED, abs=0.01)


def test_two_published_durations_are_met_or_the_gap_is_explained(monkeypatch):
    """One assumption for both: nothing is fitted to either."""
    from hermes_nb.estimate import against

    neural, open_ = estimate.published()
    assert neural["pairs"] == 3200
    assert neural["ratio"] == pytest.approx(1, abs=0.3)
    assert not neural["why"]
    whole = [(min(p, 1536), c, r) for p, c, r in estimate.lengths("orca")]
    pairs = [(p, min(c, 1536 - p), min(r, 1536 - p)) for p, c, r in whole]
    groups = [pairs[k : k + 4] for k in range(0, len(pairs), 4)]
    old = {"checkpointing": True, "layout": "padded", "head": "all"}
    mean = sum(roofline.dpo_flops(OPENHERMES, group, **old) for group in groups) / len(pairs)
    assert neural["flops"] == pytest.approx(3200 * mean)
    assert open_["pairs"] == round(0.6 * 12_859) + round(0.6 * 63_619)
    assert 0.3 < open_["ratio"] < 0.7
    assert "not published" in open_["why"]
    assert all(one["ratio"] == one["hours"] / one["published_hours"] for one in (neural, open_))
    lines = estimate.check_text([neural, open_])
    assert lines.count("off, perhaps because") == 1
    monkeypatch.setattr(against, "ASSUMED", estimate.ASSUMED / 2)
    for before, after in zip((neural, open_), estimate.published(), strict=True):
        assert 1.9 < after["hours"] / before["hours"] < 2


def test_what_is_not_known_is_not_guessed():
    """A base or a set without known sizes gets a sentence, not a number."""
    with pytest.raises(RecipeProblem, match="any model folder"):
        estimate.recipe(neuralhermes("model.base=someone/something-9B"), A100)
    rewards = "dpo.train=[{source: rlhf_reward}]"
    with pytest.raises(RecipeProblem, match="set limit"):
        estimate.recipe(neuralhermes(rewards), A100)
    limited = "dpo.train=[{source: rlhf_reward, limit: 500}]"
    assert estimate.recipe(neuralhermes(limited, "dpo.max_steps=-1"), A100)["stages"][0]["rows"] <= 500
    with pytest.raises(RecipeProblem, match="not a set of the hub"):
        estimate.recipe(neuralhermes("dpo.train=[{source: message_pairs}]"), A100)


def test_a_model_folder_tells_its_own_sizes(tiny_base):
    """One's own base is not in the table."""
    assert estimate.base_shape(tiny_base).hidden == 64
