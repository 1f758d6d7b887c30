"""Packed rows below TRL's trainers: the base model's forward takes their padded batch and returns their padded scores.

So every loss, metric and callback of TRL stays as it is. Only the final states of scored tokens reach the head, which
works in chunks and in fp32.
"""

import types

import torch

from hermes_nb.packing import attention
from hermes_nb.packing.rows import pack, pack_rows, unpack

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
SCORES = (*OUTPUTS, "log_sum_sq_probs", "label_mask")


def why_not(config, longest: int) -> str | None:
    """Why a model cannot be served exactly by packed rows, in words; None where nothing speaks against it.

    `longest` is the length in tokens of the longest row, or side of a pair.
    """
    text = config.get_text_config()
    told = text.to_dict()
    kinds = {*(told.get("layer_types") or ())}
    if kinds - {"full_attention", "sliding_attention"}:
        return f"its layers are not all attention ({', '.join(sorted(kinds))})"
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
    plain, backbone = model.__dict__.get("forward"), model.base_model
    add_fused_lm_head(model, cast_lm_head_to_fp32=True, outputs=outputs)
    fused, states, lay = model.forward, backbone.forward, pack if pairs else pack_rows
    before = model.config._attn_implementation
    additive = before not in ("sdpa", attention.NAME)  # eager adds the mask's numbers
    if not additive:
        model.set_attn_implementation(attention.register())

    def scored_states(self, *args, scored=None, **how):
        out = states(*args, **how)
        if scored is not None:
            out.last_hidden_state = out.last_hidden_state[:, scored]
        return out

    def forward(self, *args, fused_lm_head=False, input_ids=None, attention_mask=None, labels=None, **how):
        if not fused_lm_head or labels is None or args:
            return fused(*args, fused_lm_head=fused_lm_head, input_ids=input_ids, attention_mask=attention_mask,
                         labels=labels, **how)  # fmt: skip
        packed = lay(input_ids, attention_mask, labels)
        out = fused(
            input_ids=packed.ids, position_ids=packed.positions, shift_labels=packed.targets, scored=packed.scored,
            fused_lm_head=True, **_masked(packed, kind, additive), **how,
        )  # fmt: skip
        for name in SCORES:
            if out.get(name) is not None:
                out[name] = unpack(out[name], packed)
        return out

    backbone.forward = types.MethodType(scored_states, backbone)
    model.forward = types.MethodType(forward, model)
    model.unpacked = lambda: _undo(model, plain, backbone, before)


def _masked(packed, kind: str, additive: bool) -> dict:
    """What a way of attention needs of the batch, as arguments of the model."""
    if kind == "flex":
        return {"attention_mask": attention.block_mask(packed.block)}
    if kind == "dense":
        return {"attention_mask": attention.mask(packed.block, additive)}
    # a mask of four dimensions is passed on as it is; none is needed, and the trainer's must not be made
    return {"attention_mask": packed.block.new_zeros(1, 1, 1, 1), "packed": packed}


def uninstall(model) -> None:
    """Give a model its own forward back; nothing happens where nothing was installed."""
    undo = model.__dict__.pop("unpacked", None)
    if undo is not None:
        undo()


def _undo(model, plain, backbone, before: str) -> None:
    del backbone.forward
    if plain is None:
        del model.forward
    else:
        model.forward = plain
    if model.config._attn_implementation != before:
        model.set_attn_implementation(before)
