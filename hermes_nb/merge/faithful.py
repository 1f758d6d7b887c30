"""How far a merged model is from the one that was trained: KL and top-1 agreement on held-out answers.

Lesson: 04_merge.
"""

from pathlib import Path

from hermes_nb import models, templates


def compare_folders(part, adapter, merged, rows: dict, limit: int = 16) -> dict:
    """Measure the folder `merged` against base and adapter in 4 bits (`part`: `recipes.Model`) on held-out pairs.

    Returns `faithfulness` of the merged model, `kl_without_adapter` (the same for the bare base: what is at stake),
    and the sizes of adapter and weights in MB.
    """
    held_out = rows.get("held_out", rows["train"])
    pairs = held_out.select(range(min(limit, len(held_out))))
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    trained = models.load_adapter(models.load_4bit(part.base, revision=part.revision), adapter)
    out = faithfulness(trained, models.load_plain(str(merged), models.saved_dtype(merged)), tokenizer, pairs)
    base = models.load_4bit(part.base, revision=part.revision)
    out["kl_without_adapter"] = faithfulness(trained, base, tokenizer, pairs)["kl"]
    out["adapter_mb"] = (Path(adapter) / "adapter_model.safetensors").stat().st_size / 1e6
    out["merged_mb"] = sum(f.stat().st_size for f in Path(merged).glob("*.safetensors")) / 1e6
    return out | {"dtype": models.saved_dtype(merged)}


def faithfulness(trained, merged, tokenizer, rows) -> dict:
    """How far `merged` is from `trained` on the chosen answers of `rows`: mean KL (nats a token), top-1 agreement.

    KL(trained || merged) is taken over the whole vocabulary at every token of the answers, in fp32.
    """
    import torch

    kl, same, count = 0.0, 0, 0
    for row in rows:
        prompt, chosen, _ = templates.pair_ids(tokenizer, row)
        ids = torch.tensor([prompt + chosen], device=trained.device)
        logps = []
        for model in (trained, merged):
            with models.reading(model):
                logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0, len(prompt) - 1 : -1]
                logps.append(logits.float().log_softmax(-1).to(ids.device))
        kl += (logps[0].exp() * (logps[0] - logps[1])).sum().item()
        same += (logps[0].argmax(-1) == logps[1].argmax(-1)).sum().item()
        count += len(chosen)
    return {"kl": kl / count, "top1": same / count, "tokens": count}
