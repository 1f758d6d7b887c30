"""Pairs in one row compute what they compute alone. Run alone: python -m pytest tests/test_packing.py"""

import copy

import pytest
import torch

from hermes_nb import packing

SHAPE = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def tiny(family: str, **how):
    import transformers

    config = getattr(transformers, f"{family}Config")(**(SHAPE | how))
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def batch(pairs: list[tuple[int, int, int]], seed: int = 0):
    """Ragged random pairs, padded as TRL's collator does: (prompt, chosen, rejected) lengths in tokens."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for side in (1, 2):
        for i, lengths in enumerate(pairs):
            words = torch.Generator().manual_seed(seed + i)
            prompt = torch.randint(3, 97, (lengths[0],), generator=words)
            rows.append((prompt, torch.randint(3, 97, (lengths[side],), generator=draw)))
    width = max(len(p) + len(a) for p, a in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for k, (p, a) in enumerate(rows):
        ids[k, : len(p) + len(a)], mask[k, : len(p) + len(a)] = torch.cat([p, a]), 1
        labels[k, len(p) : len(p) + len(a)] = a
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


RAGGED = [(5, 7, 3), (1, 2, 9), (12, 1, 1), (3, 6, 6)]
FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def fused(model, outputs=FIELDS):
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=outputs)
    return model


@pytest.mark.parametrize(
    ("family", "how"),
    [("Llama", {}), ("Mistral", {"sliding_window": 64}), ("Qwen2", {}), ("Gemma", {"head_dim": 12}),
     ("Gemma2", {"head_dim": 12, "sliding_window": 64})],
)  # fmt: skip
@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "gather"), ("sdpa", "dense"), ("eager", "dense")])
def test_every_score_is_what_trl_s_padded_path_computes(family, how, attention, kind):
    """A token that sees another pair, or the wrong position, would change its score; fp32, within 1e-5."""
    model = tiny(family, **how)
    if family == "Gemma2":  # soft capping: eager is all that this family has
        attention, kind = "eager", "dense"
    model.set_attn_implementation(attention)
    padded, packed = fused(copy.deepcopy(model)), fused(copy.deepcopy(model))
    packing.install(packed, kind)
    inputs = batch(RAGGED)
    with torch.no_grad():
        theirs, ours = (m(**inputs, fused_lm_head=True, use_cache=False) for m in (padded, packed))
    answer = inputs["labels"][:, 1:] != -100
    for name in FIELDS:
        a, b = theirs[name], ours[name]
        assert a.shape == b.shape
        assert torch.allclose(a[answer].float(), b[answer].float(), atol=1e-5), name
        assert not b[~answer].any()
    assert abs(theirs.loss - ours.loss) < 1e-6


@pytest.mark.parametrize("kind", ["gather", "dense"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Gemma"])
def test_gradients_are_those_of_the_padded_path(family, kind):
    """Same scores with other gradients would train another model: each tensor within 1e-4, relative."""
    model, inputs = tiny(family, **({"head_dim": 12} if family == "Gemma" else {})), batch(RAGGED)
    grads = []
    for pack in (False, True):
        twin = fused(copy.deepcopy(model), ("log_probs",)).train()
        if pack:
            packing.install(twin, kind, outputs=("log_probs",))
        logps = twin(**inputs, fused_lm_head=True, use_cache=False).log_probs.sum(1)
        chosen, rejected = logps.chunk(2)
        (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()).backward()
        grads.append({name: p.grad for name, p in twin.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, theirs in grads[0].items():
        assert (theirs - grads[1][name]).norm() <= 1e-4 * theirs.norm(), name


def test_one_small_pair_by_hand():
    """Prompt 7 8, chosen 9, rejected 5 6: the row is 7 | 8 9 | 8 5 6, since 8 predicts the first token of both.

    Positions 0 | 1 2 | 1 2 3; targets only where an answer's next token is known.
    """
    ids = torch.tensor([[7, 8, 9, 0], [7, 8, 5, 6]])
    labels = torch.tensor([[-100, -100, 9, -100], [-100, -100, 5, 6]])
    packed = packing.pack(ids, torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), labels)
    assert packed.ids.tolist() == [[7, 8, 9, 8, 5, 6]]
    assert packed.positions.tolist() == [[0, 1, 2, 1, 2, 3]]
    assert packed.block.tolist() == [0, 1, 1, 2, 2, 2]
    assert packed.scored.tolist() == [1, 3, 4]
    assert packed.targets.tolist() == [[9, 5, 6]]
    assert packed.place.tolist() == [1, 4, 5]
    assert packed.source.tolist() == [0, 1, 2, 5, 6, 7]
    assert packed.take.tolist() == [0, 1, 2, 3, 0, 3, 4, 5]
    allowed = packing.mask(packed.block)[0, 0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 1, 1],
    ]  # fmt: skip
    added = packing.mask(packed.block, additive=True)[0, 0]
    assert (added == 0).int().tolist() == allowed
    assert added.min() < -1e38


def test_no_padding_and_no_prompt_twice():
    """TRL computes 8 sides of 13 places each, 104 in all; here a pair costs prompt - 1 + chosen + 1 + rejected + 1."""
    packed = packing.pack(*batch(RAGGED).values())
    assert packed.ids.shape[1] == sum(p - 1 + c + 1 + r + 1 for p, c, r in RAGGED) == 60


def test_sides_with_different_prompts_are_refused():
    """Laid once, the prompt of one side would stand for both."""
    inputs = batch([(3, 2, 2)])
    inputs["input_ids"][1, 0] += 1
    with pytest.raises(ValueError, match="pair 0: .*do not share a prompt"):
        packing.pack(*inputs.values())


@pytest.mark.parametrize(
    ("family", "how", "longest", "why"),
    [("Llama", {}, 500, None), ("Mistral", {"sliding_window": 64}, 64, None),
     ("Mistral", {"sliding_window": 64}, 65, "sliding window of 64"), ("Qwen2", {}, 9999, None)],
)  # fmt: skip
def test_what_cannot_be_served_exactly_is_said(family, how, longest, why):
    """A mask of our own has no window: beyond it a packed row would see more than the model was trained to."""
    found = packing.why_not(tiny(family, **how).config, longest)
    assert (why in found) if why else found is None
