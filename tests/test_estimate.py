"""Run alone: python -m pytest tests/test_estimate.py"""

import pytest

from hermes_nb import estimate
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
