"""Run alone: python -m pytest tests/test_roofline.py"""

import itertools
import subprocess
import sys

import pytest

from hermes_nb import roofline
from hermes_nb.errors import RecipeProblem

# q and o 4 x 4, k and v 4 x 2, three of 4 x 6: 120 weights; rank 1: 8 + 6 + 6 + 8 + 10 + 10 + 10 = 58
SMALL = roofline.Shape("small", 4, 1, 2, 6, 10, False)
PAIR = [(2, 1, 3)]  # prompt, chosen, rejected
MISTRAL, RANK = roofline.MISTRAL_7B, 16


def llama(layers=2, hidden=64, wide=128, heads=4, kv=2, rank=4, attention="sdpa"):
    """A random Llama with fp32 adapters of LoRA on a 16-bit base, as QLoRA has it, and its shape."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=96, attn_implementation=attention, pad_token_id=0,
    )  # fmt: skip
    model = get_peft_model(
        LlamaForCausalLM(config).to(torch.bfloat16), LoraConfig(r=rank, target_modules="all-linear", lora_dropout=0.0)
    )
    for weight in model.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    return model.train(), roofline.shape_of(config)


def test_a_step_of_one_pair_by_hand():
    """A term left out of the formula moves every share of the roofline.

    Prompt 2, chosen 1, rejected 3: 6 tokens, 4 scored; they see 3 + (2 + 1) + (6 + 6) = 18. F = 2 (120 + 58) 6
    + 4 x 4 x 18 + 2 x 4 x 10 x 4 = 2136 + 288 + 320 = 2744. B = 2 (120 + 116) 6 + 2 x 288 + 320 = 3728. Recomputing
    2136 + 288 = 2424. Reference 2 x 120 x 6 + 288 + 320 = 2048.
    """
    work = roofline.packed(PAIR)
    assert (work.tokens, work.sees, work.scored) == (6, 18, 4)
    assert roofline.forward(SMALL, work, 58) == 2744
    assert roofline.backward(SMALL, work, 58) == 3728
    assert roofline.dpo_flops(SMALL, PAIR, rank=1) == 2744 + 3728 + 2048
    assert roofline.dpo_flops(SMALL, PAIR, rank=1, reference="cached") == 2744 + 3728
    assert roofline.dpo_flops(SMALL, PAIR, rank=1, checkpointing=True) == 2744 + 3728 + 2048 + 2424
    assert roofline.reference_flops(SMALL, PAIR) == 2048


def test_padded_pairs_by_hand():
    """Padding and the second prompt are computed, so they cost.

    Rows of 3 and 5 tokens, both laid as 5: 10 tokens that see 2 x 15; 4 scored, or all 10. An adapter on q alone has 8
    numbers: F = 2 x 128 x 10 + 16 x 30 + 80 x 4 = 3360, B = 2 x 136 x 10 + 2 x 480 + 320 = 4000.
    """
    work = roofline.padded(PAIR)
    assert (work.tokens, work.sees, work.scored) == (10, 30, 4)
    assert roofline.padded(PAIR, head="all").scored == 10
    how = {"rank": 1, "targets": ["q_proj"], "reference": "cached", "layout": "padded"}
    assert roofline.dpo_flops(SMALL, PAIR, **how) == 3360 + 4000
    assert roofline.dpo_flops(SMALL, PAIR, **how, head="all") == 3360 + 4000 + 2 * 80 * 6


def test_sft_by_hand():
    """Rows (rest, answers) of (1, 2) and (1, 1): 5 tokens, 6 + 3 = 9 seen, 3 scored; padded 6 tokens and 12 seen."""
    rows = [(1, 2), (1, 1)]
    assert roofline.sft_flops(SMALL, rows, rank=1) == 2 * (178 + 236) * 5 + 3 * 16 * 9 + 2 * 80 * 3
    assert roofline.sft_flops(SMALL, rows, rank=1, layout="padded") == 2 * (178 + 236) * 6 + 3 * 16 * 12 + 2 * 80 * 3


def test_packed_attention_is_what_the_mask_lets_through():
    """The closed formula against every (query, key) pair, one by one."""
    for prompt, *answers in [(5, 7, 3), (1, 2, 9), (12, 1, 1)]:
        piece = [0] * prompt + [1] * answers[0] + [2] * answers[1]
        seen = sum(k <= q and piece[k] in (0, piece[q]) for q, k in itertools.product(range(len(piece)), repeat=2))
        assert roofline.packed([(prompt, *answers)]).sees == seen


@pytest.mark.parametrize(
    ("how", "giga", "a100"),
    [
        ({}, 29.3, 10_630), ({"checkpointing": True}, 43.7, 7_150), ({"reference": True}, 43.8, 7_130),
        ({"reference": True, "checkpointing": True}, 58.1, 5_370),
    ],
)  # fmt: skip
def test_a_token_of_7b_costs_what_the_arithmetic_on_paper_says(how, giga, a100):
    """GFLOP a token of Mistral-7B at rank 16, rows of 1024, 70 % scored, and tokens/s of an A100 at 100 %."""
    adapter = roofline.adapter_parameters(MISTRAL, RANK)
    assert adapter == 41_943_040
    flops = roofline.training(MISTRAL, roofline.token(1024, 0.7), adapter, **how)
    assert flops / 1e9 == pytest.approx(giga, rel=0.01)
    assert roofline.gpu("a100-40").peak / flops == pytest.approx(a100, rel=0.01)


def test_torch_counts_the_same():
    """An independent count: torch's own, operator by operator, of a real forward and backward pass.

    Eager attention computes the masked half too, so every token sees all of them.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, shape = llama(attention="eager")
    model.enable_input_require_grads()
    n, adapter = 24, roofline.adapter_parameters(shape, 4)
    ids = torch.arange(n)[None]
    with FlopCounterMode(display=False) as forward, torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    work = roofline.Work(n, n * n, n)
    assert forward.get_total_flops() == pytest.approx(roofline.forward(shape, work, adapter), rel=0.01)
    assert backward.get_total_flops() == pytest.approx(roofline.backward(shape, work, adapter), rel=0.01)


def test_what_a_pass_over_nf4_weights_takes():
    """2.5625 bytes a weight: 17.9 GB for 7B, at each GPU's bandwidth."""
    assert roofline.dequantization_bytes(MISTRAL) == pytest.approx(17.9e9, rel=0.01)
    for name, milliseconds in {"a100-40": 11.5, "a100-80": 8.9, "h200": 3.7, "t4": 56}.items():
        found = 1000 * roofline.dequantization_seconds(MISTRAL, roofline.gpu(name))
        assert found == pytest.approx(milliseconds, rel=0.02), name


@pytest.mark.parametrize(
    ("chip", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40"), ("NVIDIA A100 80GB PCIe", "a100-80"), ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"), ("NVIDIA L4", "l4"), ("Tesla T4", "t4"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L40S", None), ("NVIDIA H100 NVL", None), ("NVIDIA H100 PCIe", None), ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("AMD EPYC", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_the_driver_s_name(chip, name):
    """A peak of another chip would turn a measured share into a wrong one."""
    assert roofline.gpu_of(chip) is (roofline.GPUS[name] if name else None)


def test_a_share_is_work_over_what_could_have_been_done():
    """312 TFLOP in two seconds is half of an A100."""
    assert roofline.share(312e12, 2.0, roofline.gpu("a100-80")) == pytest.approx(0.5)


def kept(model, tokens: int, masked: bool = False) -> int:
    """Bytes of the distinct storages that autograd keeps of a forward pass through the layers, weights left out."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in itertools.chain(model.parameters(), model.buffers())}
    held = {}

    def hold(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None] if masked else None
    hooks = torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        model.get_base_model().model(input_ids=torch.arange(tokens)[None] % 96, attention_mask=mask, use_cache=False)
    return sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in own)


SIZES = [  # layers, hidden, wide, heads, kv heads, rank, tokens
    (2, 64, 128, 4, 2, 4, 64), (4, 128, 256, 4, 4, 8, 200), (3, 256, 704, 8, 2, 16, 300), (2, 128, 448, 4, 1, 64, 777),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "hidden", "wide", "heads", "kv", "rank", "tokens"), SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_activations_are_those_that_autograd_keeps(layers, hidden, wide, heads, kv, rank, tokens, masked):
    """An estimate that is too low promises a row that does not fit, one too high wastes the GPU."""
    model, shape = llama(layers, hidden, wide, heads, kv, rank)
    counted = roofline.activation_bytes(shape, tokens, rank=rank, masked=masked)
    assert counted == pytest.approx(kept(model, tokens, masked), rel=0.05)


@pytest.mark.parametrize(("layers", "hidden", "wide", "heads", "kv", "rank", "tokens"), SIZES)
def test_checkpointing_keeps_inputs_and_one_layer(layers, hidden, wide, heads, kv, rank, tokens):
    """Measured in two parts: what a checkpointed model keeps, and one layer as it is computed again."""
    one, _ = llama(1, hidden, wide, heads, kv, rank)
    model, shape = llama(layers, hidden, wide, heads, kv, rank)
    # only the reentrant form shows autograd what it keeps
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    counted = roofline.activation_bytes(shape, tokens, rank=rank, checkpointing=True)
    assert counted == pytest.approx(kept(model, tokens) + kept(one, tokens), rel=0.05)


def test_answers_cost_the_head_a_tile_at_a_time():
    """Scored tokens keep 4 bytes a unit; the tile of logits stops growing at 4096 tokens by 32,768 words."""
    more = roofline.activation_bytes(MISTRAL, 8192, scored=8192) - roofline.activation_bytes(MISTRAL, 8192)
    assert more == 4 * 4096 * 8192
    wide = roofline.Shape("wide", 64, 1, 64, 64, 128_000, True)
    tile, weights = 4096 * 32_768, 32_768 * 64
    assert roofline.passing_bytes(wide, 8192, scored=8192) == 4 * (tile + weights + 64 * 8192)


@pytest.mark.parametrize("how", [{}, {"checkpointing": True}, {"masked": True}, {"targets": ["q_proj"], "rank": 64}])
def test_the_longest_row_that_fits_is_found(how):
    """One token more must not fit."""
    free = 30e9
    most = roofline.tokens_that_fit(MISTRAL, free, answers=0.5, **how)
    assert most > 1000
    assert roofline.fits(MISTRAL, most, free, scored=round(most / 2), **how)
    assert not roofline.fits(MISTRAL, most + 1, free, scored=round((most + 1) / 2), **how)
    assert roofline.tokens_that_fit(MISTRAL, 1e6) == 0


def test_unknown_words_are_refused():
    """A mistyped layout must not be counted as another."""
    for how in ({"layout": "packd"}, {"reference": "none"}, {"layout": "padded", "head": "last"}):
        with pytest.raises(RecipeProblem, match="there are"):
            roofline.dpo_flops(SMALL, PAIR, **how)
    with pytest.raises(RecipeProblem, match="packed, padded"):
        roofline.sft_flops(SMALL, [(1, 1)], layout="bfd")
    with pytest.raises(RecipeProblem, match="a100-40, a100-80"):
        roofline.gpu("a1000")


def test_it_is_arithmetic_alone():
    """Whoever asks what fits should not wait for torch."""
    code = "import sys, hermes_nb.roofline; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
