"""Whether packed rows compute what the padded path computes, tried on the model at hand before it is trained."""

import torch

from hermes_nb.packing.install import install, uninstall

SHAPE = ((9, 7, 3), (4, 2, 11))  # prompt, chosen, rejected tokens of the pairs that are tried
TIMES = 8  # a packed score may lie that many times as far from the padded one as another padded cut does
FLOOR = {True: 5e-2, False: 2e-5}  # nats, in 16 bits and in 32, where that cut happens to change nothing


def sample(model, pairs: bool) -> dict:
    """A padded batch of random tokens, chosen sides first, as TRL's collators make them."""
    vocab = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(vocab, (p,), generator=draw) for p, _, _ in SHAPE]
    sides = [(prompts[i], torch.randint(vocab, (SHAPE[i][s],), generator=draw)) for s in (1, 2) for i in (0, 1)]
    width = max(len(p) + len(a) for p, a in sides)
    ids, mask = (torch.zeros(len(sides), width, dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for k, (prompt, answer) in enumerate(sides):
        whole, begin = torch.cat([prompt, answer]), len(prompt) if pairs else 1
        ids[k, : len(whole)], mask[k, : len(whole)], labels[k, begin : len(whole)] = whole, 1, whole[begin:]
    device = model.get_input_embeddings().weight.device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


@torch.no_grad()
def differs(model, kind: str, pairs: bool = True) -> str | None:
    """Install packing by `kind` and compare; None, with packing left installed, where the scores are the padded ones.

    Else it is taken out again and the answer says by how much they differ, or what went wrong. The noise allowed is
    that of the model itself: the same rows padded, all at once against one by one.
    """
    from trl.trainer.utils import add_fused_lm_head

    uninstall(model)
    batch, before = sample(model, pairs), model.__dict__.get("forward")
    add_fused_lm_head(model, cast_lm_head_to_fp32=True)
    how = {"fused_lm_head": True, "use_cache": False}
    whole = model(**batch, **how).log_probs
    single = torch.cat([model(**{n: t[i : i + 1] for n, t in batch.items()}, **how).log_probs for i in range(4)])
    if before is None:
        del model.forward
    else:
        model.forward = before
    noise = (whole - single).abs().max().item()
    try:
        install(model, kind, pairs)
        off = (model(**batch, **how).log_probs - whole).abs().max().item()
    except Exception as error:  # whatever a model that was never met here raises is a reason not to pack it
        uninstall(model)
        return f"{kind}: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    short = torch.is_autocast_enabled(whole.device.type) or model.dtype.itemsize < 4
    if off <= TIMES * noise + FLOOR[short]:
        return None
    uninstall(model)
    return f"{kind}: scores differ by {off:.1e} nats, where another cut of padded rows differs by {noise:.1e}"
