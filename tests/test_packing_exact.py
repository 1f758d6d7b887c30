"""Packed rows compute the padded path's very numbers. Run alone: python -m pytest tests/test_packing_exact.py"""

import copy
import random

import pytest
import torch
from test_packing import FIELDS, SHAPE, batch, fused, tiny

from hermes_nb import packing
from hermes_nb.packing.attention import TILE

FAMILIES = {
    "Llama": {}, "Mistral": {"sliding_window": 64}, "Qwen2": {}, "Qwen3": {"head_dim": 12}, "Gemma": {"head_dim": 12},
    "Gemma2": {"head_dim": 12, "sliding_window": 64}, "Phi3": {},
}  # fmt: skip
SERVED = [
    (family, kind) for family in FAMILIES for kind in ("gather", "dense") if (family, kind) != ("Gemma2", "gather")
]


def ragged(seed: int, pairs: int = 4, longest: int = 16) -> list[tuple[int, int, int]]:
    """Lengths of prompts and answers, now and then of one token only."""
    draw = random.Random(seed)
    return [tuple(draw.choice([1, draw.randint(1, longest)]) for _ in range(3)) for _ in range(pairs)]


def family(name: str):
    model = tiny(name, **FAMILIES[name])
    if name == "Gemma2":  # soft capping: eager is all that this family has
        model.set_attn_implementation("eager")
    return model


def with_lora(model, seed: int = 5):
    """An adapter on every linear layer, B not 0."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    for name, parameter in sorted(wrapped.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    return wrapped


def sigmoid_loss(logps, reference=None, beta=0.3):
    chosen, rejected = (logps - (reference if reference is not None else 0)).chunk(2)
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


def adapter_gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize(("name", "kind"), SERVED)
def test_scores_of_ragged_pairs_are_the_padded_ones(name, kind):
    """Ten layouts, fp32, each token within 1e-5; a metric of TRL that packing forgot would be 0 in every log."""
    model = family(name)
    padded, packed = fused(copy.deepcopy(model)), fused(copy.deepcopy(model))
    packing.install(packed, kind)
    for seed in range(10):
        inputs = batch(ragged(seed), seed)
        with torch.no_grad():
            theirs, ours = (m(**inputs, fused_lm_head=True, use_cache=False) for m in (padded, packed))
        answer = inputs["labels"][:, 1:] != -100
        for field in FIELDS:
            a, b = theirs[field], ours[field]
            assert a.shape == b.shape == answer.shape
            if field == "is_top1":  # a tie of two logits may round either way
                assert (a[answer] != b[answer]).sum() == 0, (field, seed)
            else:
                assert (a[answer] - b[answer]).abs().max() <= 1e-5, (field, seed)
                assert b[answer].abs().min() > 0, (field, seed)
            assert not b[~answer].any()


@pytest.mark.parametrize(("name", "kind"), SERVED)
def test_gradients_of_every_adapter_are_the_padded_ones(name, kind):
    """LoRA on all linear layers, B not 0, the sigmoid loss of ragged pairs: fp32, each tensor within 1e-4."""
    grads, inputs = [], batch(ragged(3), 3)
    for pack in (False, True):
        model = with_lora(fused(family(name), ("log_probs",))).train()
        if pack:
            packing.install(model.get_base_model(), kind, outputs=("log_probs",))
        logps = model(**inputs, fused_lm_head=True, use_cache=False).log_probs.sum(1)
        sigmoid_loss(logps).backward()
        grads.append(adapter_gradients(model))
    linear = {n.split(".lora_")[0] for n in grads[0]}
    assert len(grads[0]) == 2 * len(linear)
    for tensor, theirs in grads[0].items():
        assert theirs.norm() > 0, tensor
        assert (theirs - grads[1][tensor]).norm() <= 1e-4 * theirs.norm(), tensor


# in fp64, against a loop that knows nothing of padding or sharing


def one_by_one(model, inputs):
    """Summed log-probability of each answer, every side alone: no padding, nothing shared."""
    out = []
    for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
        ids, labels = ids[: mask.sum()], labels[: mask.sum()]
        logits = model(input_ids=ids[None], use_cache=False).logits[0].double()
        scored = (labels[1:] != -100).nonzero().squeeze(1)
        out.append(logits[scored].log_softmax(-1).gather(1, labels[scored + 1, None]).sum())
    return torch.stack(out)


def in_one_row(model, inputs, kind: str):
    """The same sums by our layout, with transformers' plain forward and a log-softmax of our own."""
    packed = packing.pack(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    if kind == "dense":
        how = {"attention_mask": packing.mask(packed.block)}
    else:
        how = {"attention_mask": packed.block.new_zeros(1, 1, 1, 1), "packed": packed}
        model.get_base_model().set_attn_implementation(packing.attention.register())
    logits = model(input_ids=packed.ids, position_ids=packed.positions, use_cache=False, **how).logits[0].double()
    scores = logits[packed.scored].log_softmax(-1).gather(1, packed.targets[0][:, None]).squeeze(1)
    return packing.unpack(scores[None], packed).sum(1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["gather", "dense"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma"])
def test_the_layout_is_exact_in_double_precision(name, kind, checkpointing):
    """fp32 would hide a wrong token of small weight: gradients of the DPO loss within 1e-9, sums within 1e-11."""
    grads, sums, inputs = [], [], batch(ragged(7, pairs=3), 7)
    reference = torch.linspace(-3, 3, 6, dtype=torch.float64)
    for way in (one_by_one, lambda *given: in_one_row(*given, kind)):
        model = with_lora(family(name)).double().train()
        if checkpointing and way is not one_by_one:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        logps = way(model, inputs)
        sigmoid_loss(logps, reference).backward()
        sums.append(logps.detach())
        grads.append(adapter_gradients(model))
    assert (sums[0] - sums[1]).abs().max() < 1e-11
    for tensor, theirs in grads[0].items():
        assert theirs.dtype == torch.float64
        assert (theirs - grads[1][tensor]).norm() <= 1e-9 * theirs.norm(), tensor


@pytest.mark.parametrize("kind", ["gather", "dense"])
def test_recomputed_layers_give_the_same_gradients(kind):
    """Gradient checkpointing computes each layer twice: the second pass must get the layout, too."""
    grads, inputs = [], batch(ragged(4), 4)
    for checkpointing in (False, True):
        model = with_lora(fused(family("Llama"), ("log_probs",))).train()
        packing.install(model.get_base_model(), kind, outputs=("log_probs",))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        assert model.is_gradient_checkpointing == checkpointing
        sigmoid_loss(model(**inputs, fused_lm_head=True, use_cache=False).log_probs.sum(1)).backward()
        grads.append(adapter_gradients(model))
    for tensor, theirs in grads[0].items():
        assert (theirs - grads[1][tensor]).norm() <= 1e-6 * theirs.norm(), tensor


def test_taking_and_laying_back_is_exact():
    """`take` brings every token of the padded batch, a shared prompt twice; `source` lays each back where it was."""
    for seed in range(20):
        inputs = batch(ragged(seed, pairs=5), seed)
        packed = packing.pack(*inputs.values())
        real = inputs["attention_mask"].bool()
        taken = packed.ids[0][packed.take].view(packed.rows, packed.width)
        assert torch.equal(taken[real], inputs["input_ids"][real])
        assert torch.equal(inputs["input_ids"].flatten()[packed.source], packed.ids[0])
        places = packed.positions[0][packed.take].view(packed.rows, packed.width)
        assert torch.equal(places[real], (inputs["attention_mask"].cumsum(1) - 1)[real])
        prompts = sum(max(0, (row != -100).int().argmax().item() - 1) for row in inputs["labels"][:5])
        assert packed.ids.shape[1] == real.sum() - prompts, "each prompt once, but for its last token"


# the mask of blocks


LAYOUTS = {
    "small": [(5, 7, 3), (1, 2, 9)],
    "over one tile": [(90, 30, 61), (1, 1, 1)],
    "three tiles": [(128, 128, 127)],
    "not a multiple": [(150, 77, 20), (40, 100, 3), (1, 129, 1)],
}


def block_of(pairs):
    return packing.pack(*batch(pairs).values()).block


def looped(block) -> torch.Tensor:
    """The mask by a plain reading of its rule."""
    size = len(block)
    out = torch.zeros(size, size, dtype=torch.bool)
    for query in range(size):
        for key in range(query + 1):
            own, theirs = int(block[query]), int(block[key])
            shared = own % 3 and theirs == 3 * (own // 3)
            out[query, key] = own == theirs or bool(shared)
    return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_mask_is_its_rule(name):
    """Before one's own place, in one's own piece or in the prompt of one's own pair."""
    block = block_of(LAYOUTS[name])
    assert torch.equal(packing.mask(block)[0, 0], looped(block))
    added = packing.mask(block, additive=True)[0, 0]
    assert torch.equal(added == 0, looped(block))
    assert torch.isfinite(added).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_cover_what_is_allowed_and_nothing_else(name):
    """A tile that is skipped by mistake loses tokens in silence; a full one that is not wholly allowed shows others."""
    block = block_of(LAYOUTS[name])
    allowed, size = packing.mask(block)[0, 0], len(block)
    blocks = packing.block_mask(block)
    assert blocks.shape[-2:] == (size, size)
    assert blocks.BLOCK_SIZE == (TILE, TILE)
    tiles = -(-size // TILE)
    partial, full = (torch.zeros(tiles, tiles, dtype=torch.bool) for _ in range(2))
    for row in range(tiles):
        partial[row, blocks.kv_indices[0, 0, row, : blocks.kv_num_blocks[0, 0, row]].long()] = True
        full[row, blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]].long()] = True
    assert not (partial & full).any()
    spread = torch.nn.functional.pad(allowed, (0, tiles * TILE - size, 0, tiles * TILE - size))
    inside = spread.unflatten(0, (tiles, TILE)).unflatten(2, (tiles, TILE)).transpose(1, 2).flatten(2)
    assert torch.equal(partial | full, inside.any(-1)), "computed exactly where something is allowed"
    assert inside.all(-1)[full].all()
    at = torch.arange(size)
    elementwise = blocks.mask_mod(torch.tensor(0), torch.tensor(0), at[:, None], at[None])
    assert torch.equal(elementwise.expand(size, size), allowed)


UNFUSED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@UNFUSED
@pytest.mark.parametrize("name", LAYOUTS)
def test_flex_attention_is_the_dense_one(name):
    """Uncompiled, on a CPU: the same function that a GPU compiles, with grouped heads."""
    from torch.nn.attention.flex_attention import flex_attention

    block = block_of(LAYOUTS[name])
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, len(block), 16) for heads in (4, 2, 2))
    ours = flex_attention(query, key, value, block_mask=packing.block_mask(block), enable_gqa=True)
    wide = (t.repeat_interleave(2, 1) for t in (key, value))
    dense = torch.nn.functional.scaled_dot_product_attention(query, *wide, attn_mask=packing.mask(block))
    assert (ours - dense).abs().max() < 1e-5


@UNFUSED
def test_flex_serves_a_whole_model(monkeypatch):
    """From TRL's call to its scores; on a CPU without gradients, and not compiled, which takes a compiler."""
    from torch.nn.attention.flex_attention import flex_attention
    from transformers.integrations import flex_attention as theirs

    monkeypatch.setattr(
        theirs, "compile_friendly_flex_attention", lambda *qkv, training=False, **how: flex_attention(*qkv, **how)
    )
    model = family("Llama")
    padded, packed = fused(copy.deepcopy(model)), fused(copy.deepcopy(model))
    packing.install(packed, "flex")
    inputs = batch([(60, 40, 33), (5, 30, 70)])
    with torch.no_grad():
        theirs, ours = (m(**inputs, fused_lm_head=True, use_cache=False) for m in (padded, packed))
    for field in FIELDS[:3]:
        assert (theirs[field] - ours[field])[inputs["labels"][:, 1:] != -100].abs().max() < 1e-5, field


# serving: only what is exact, and nothing is left behind where nothing serves


def generated(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False).tolist()


def footprint(model) -> dict:
    """What packing may change of a model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "forward": base.__dict__.get("forward"), "backbone": base.base_model.__dict__.get("forward"),
        "attention": base.config._attn_implementation, "unpacked": "unpacked" in base.__dict__,
        "training": model.training,
    }  # fmt: skip


@pytest.mark.parametrize("add_head", [False, True])
@pytest.mark.parametrize("kind", ["gather", "dense", "flex"])
def test_a_model_is_given_back_as_it_was(kind, add_head):
    """Generation goes on through the same model; a layout left behind would show in every later answer."""
    model = fused(family("Llama")) if add_head else family("Llama")
    before, text = footprint(model), generated(model)
    packing.install(model, kind)
    packing.install(model, kind, pairs=False)
    assert generated(model) == text
    packing.uninstall(model)
    assert footprint(model) == before
    assert generated(model) == text
    packing.uninstall(model)
    assert footprint(model) == before


def test_a_forward_that_others_have_wrapped_is_given_back():
    """accelerate hangs its hooks on a module's own `forward`, on the backbone's as well."""
    model = family("Llama")
    plain = model.base_model.forward
    model.base_model.forward = lambda *args, **more: plain(*args, **more)
    before = footprint(model)
    packing.install(model, "gather")
    packing.uninstall(model)
    assert footprint(model) == before


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_plain_model_is_served(pairs, training):
    """What is said goes into `run.json`; the mode of the model is left as it was."""
    model = with_lora(family("Llama")).train(training)
    kind, why = packing.serve(model, 64, pairs=pairs)
    assert kind == "gather"
    assert "its scores are those of padded rows" in why
    assert model.training == training
    packing.uninstall(model.get_base_model())


def test_an_attention_that_ignores_the_layout_is_refused(monkeypatch):
    """A model whose attention has a way of its own would mix the pairs; its self-test tells, and nothing is left."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def careless(module, query, key, value, attention_mask, packed=None, **how):
        causal = attention_mask if packed is None else None
        return sdpa_attention_forward(module, query, key, value, causal, **how)

    monkeypatch.setattr(packing.attention, "attend", careless)
    model = with_lora(family("Llama")).train()
    before, text = footprint(model), generated(model)
    kind, why = packing.serve(model, 64, attention="gather")
    assert kind is None
    assert why.startswith("gather: scores differ by ")
    assert footprint(model) == before
    assert generated(model) == text
    kind, why = packing.serve(model, 64)
    assert kind == "dense", "a mask of its own serves it still"
    assert "gather: scores differ" in why
    monkeypatch.undo()
    packing.attention.register()


def test_a_model_that_raises_is_refused_with_its_words(monkeypatch):
    """A model never met before may not know `position_ids` at all; training goes on padded."""

    def broken(*args, **more):
        raise TypeError("got an unexpected keyword argument 'packed'")

    monkeypatch.setattr(packing.attention, "attend", broken)
    model = family("Llama")
    before = footprint(model)
    kind, why = packing.serve(model, 64, attention="gather")
    assert (kind, why) == (None, "gather: TypeError: got an unexpected keyword argument 'packed'")
    assert footprint(model) == before
    monkeypatch.undo()
    packing.attention.register()


def prompt_tuned(model):
    from peft import PromptTuningConfig, get_peft_model

    return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


def linear_layers(model):
    model.config.layer_types = ["full_attention", "linear_attention"]
    return model


@pytest.mark.parametrize(
    ("make", "longest", "why"),
    [
        (lambda: tiny("Mistral", sliding_window=64), 65, "sliding window of 64 tokens is shorter than the longest row"),
        (lambda: linear_layers(family("Llama")), 9, "not all attention (full_attention, linear_attention)"),
        (lambda: prompt_tuned(family("Llama")), 9, "learned tokens before the text"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_said_and_left_as_it_was(make, longest, why):
    """Exact or not at all; the padded path of TRL is always there."""
    model = make()
    before = footprint(model)
    kind, said = packing.serve(model, longest)
    assert kind is None
    assert why in said
    assert footprint(model) == before


@pytest.mark.parametrize(("name", "how"), [("Qwen3Next", {}), ("Mamba", {})])
def test_models_without_attention_are_not_served(name, how):
    """A state that runs along the row would carry one pair's tokens into the next."""
    import transformers

    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"this transformers has no {name}")
    shape = {
        k: v for k, v in SHAPE.items() if name != "Mamba" or k in ("hidden_size", "num_hidden_layers", "vocab_size")
    }
    config = getattr(transformers, f"{name}Config")(**shape, **how)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    kind, _ = packing.serve(model, 32)
    assert kind is None


@pytest.mark.slow
def test_the_built_in_model_scores_alike_within_1e_4(cpu_fp32):
    """Thirty layers in 4 bits, fp32 arithmetic, real lengths: errors that small models hide would add up here."""
    from hermes_nb import models
    from hermes_nb.bench.training import drawn, lengths, made

    tokenizer, model = models.tokenizer("builtin", "chatml"), models.load_4bit("builtin", dtype="float32")
    rows = made(drawn(lengths("orca", tokenizer), 2, 512, 0), tokenizer, 49152)
    sides = [(row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids") for row in rows]
    width = max(len(p) + len(a) for p, a in sides)
    inputs = {name: torch.zeros(4, width, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    inputs["labels"] = torch.full((4, width), -100)
    for k, (prompt, answer) in enumerate(sides):
        whole = torch.tensor(prompt + answer)
        inputs["input_ids"][k, : len(whole)], inputs["attention_mask"][k, : len(whole)] = whole, 1
        inputs["labels"][k, len(prompt) : len(whole)] = whole[len(prompt) :]
    how = {"fused_lm_head": True, "use_cache": False}
    from trl.trainer.utils import add_fused_lm_head

    with torch.no_grad():
        add_fused_lm_head(model)
        theirs = model(**inputs, **how).log_probs
        packing.install(model)
        ours = model(**inputs, **how).log_probs
    assert (theirs - ours).abs().max() < 1e-4
    assert theirs.abs().sum() > 100
