"""Packed rows below TRL's trainers: the base model's forward takes their padded batch and returns their padded scores.

So every loss, metric and callback of TRL stays as it is. Only the final states of scored tokens reach the head, which
works in chunks and in fp32.
"""

import types
import weakref
from contextlib import contextmanager

import torch

from hermes_nb.packing import attention
from hermes_nb.packing.rows import pack, pack_rows, unpack

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
SCORES = (*OUTPUTS, "log_sum_sq_probs", "label_mask")
_installed = weakref.WeakKeyDictionary()  # model -> (the forward laid over it, how to take it off)


def why_not(config, longest: int) -> str | None:
    """Why a model cannot be served exactly by packed rows, in words; None where nothing speaks against it.

    `longest` is the length in tokens of the longest row, or side of a pair.
    """
    text = config.get_text_config()
    told = text.to_dict()
    kinds = {*(told.get("layer_types") or ())}
    if kinds - {"full_attention", "sliding_attention"}:
        return f"its layers are not all attention ({', '.join(sorted(kinds))})"
    if told.get("output_router_logits") is not None and told.get("router_aux_loss_coef"):
        return "its loss for balancing experts is computed from padded rows"
    window = told.get("sliding_window")
    if window and longest > window and told.get("use_sliding_window", True):
        return f"its sliding window of {window} tokens is shorter than the longest row, {longest}"
    return None


def learns_prompts(model) -> bool:
    """Whether an adapter puts learned tokens before the text (prompt tuning and the like): they have no place here."""
    from peft import PeftModel, PromptLearningConfig

    if not isinstance(model, PeftModel):
        return False
    return any(isinstance(config, PromptLearningConfig) for config in model.peft_config.values())


def kinds(model) -> tuple[str, ...]:
    """Ways of attention that may serve `model` here, the one to try first in front.

    Models that transformers gives `eager` attention (soft capping and the like) need the dense mask.
    """
    if model.config._attn_implementation not in ("sdpa", attention.NAME):
        return ("dense",)
    device = next(model.parameters()).device
    flex = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return ("gather", "flex", "dense") if flex else ("gather", "dense")


def install(model, kind: str = "gather", pairs: bool = True, outputs: tuple[str, ...] = OUTPUTS) -> None:
    """Let a base model compute a padded batch packed, wherever it is called with `fused_lm_head=True` and `labels`.

    `pairs`: chosen sides first, then rejected ones, as DPOTrainer's; else plain rows, as SFTTrainer's. `outputs` are
    TRL's names of what the head computes. Calls without `fused_lm_head`, such as generation, stay as they were.
    """
    from trl.trainer.utils import add_fused_lm_head

    uninstall(model)
    backbone, before = model.base_model, model.config._attn_implementation
    plain, plain_states = model.__dict__.get("forward"), backbone.__dict__.get("forward")
    add_fused_lm_head(model, cast_lm_head_to_fp32=True, outputs=outputs)
    additive = before not in ("sdpa", attention.NAME)  # eager adds the mask's numbers
    if not additive:
        model.set_attn_implementation(attention.register())
    backbone.forward = types.MethodType(_scored_states(backbone.forward), backbone)
    forward = _packed_forward(model.forward, pack if pairs else pack_rows, kind, additive)
    model.forward = types.MethodType(forward, model)

    def undo():
        _put_back(model, plain)
        _put_back(backbone, plain_states)
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)

    _installed[model] = (forward, undo)


def _scored_states(states):
    """A backbone's forward that hands on the final states of the tokens `scored` alone, where they are named."""

    def forward(self, *args, scored=None, **how):
        out = states(*args, **how)
        if scored is not None:
            out.last_hidden_state = out.last_hidden_state[:, scored]
        return out

    return forward


def _packed_forward(fused, lay, kind: str, additive: bool):
    """A base model's forward: packed by `lay` where TRL asks for scores of labels, else `fused`, TRL's own."""

    def forward(self, *args, fused_lm_head=False, input_ids=None, attention_mask=None, labels=None, **how):
        if not fused_lm_head or labels is None or args:
            return fused(*args, fused_lm_head=fused_lm_head, input_ids=input_ids, attention_mask=attention_mask,
                         labels=labels, **how)  # fmt: skip
        packed = lay(input_ids, attention_mask, labels)
        with _noise_of(self.get_input_embeddings(), packed):
            out = fused(
                input_ids=packed.ids, position_ids=packed.positions, shift_labels=packed.targets, scored=packed.scored,
                fused_lm_head=True, **_masked(packed, kind, additive), **how,
            )  # fmt: skip
        for name in SCORES:
            if out.get(name) is not None:
                out[name] = unpack(out[name], packed)
        return out

    return forward


def _put_back(module, forward) -> None:
    """Give a module the `forward` of its own that it had, or that of its class."""
    if forward is None:
        del module.forward
    else:
        module.forward = forward


@contextmanager
def _noise_of(embeddings, packed):
    """Keep NEFTune's noise what it is on the padded batch: it shrinks with the root of a row's length."""
    alpha = embeddings.__dict__.get("neftune_noise_alpha")
    if alpha is None:
        yield
        return
    embeddings.neftune_noise_alpha = alpha * (packed.ids.shape[1] / packed.width) ** 0.5
    try:
        yield
    finally:
        embeddings.neftune_noise_alpha = alpha


def _masked(packed, kind: str, additive: bool) -> dict:
    """What a way of attention needs of the batch, as arguments of the model."""
    if kind == "flex":
        return {"attention_mask": attention.block_mask(packed.block)}
    if kind == "dense":
        return {"attention_mask": attention.mask(packed.block, additive)}
    # a mask of four dimensions is passed on as it is; none is needed, and the trainer's must not be made
    return {"attention_mask": packed.block.new_zeros(1, 1, 1, 1), "packed": packed}


def uninstall(model) -> None:
    """Take packing off a base model; nothing happens where it is not on, or where another forward was laid over it."""
    forward, undo = _installed.pop(model, (None, None))
    if forward is not None and model.forward.__func__ is forward:
        undo()
