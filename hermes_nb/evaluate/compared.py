"""Base, each adapter and the merged model measured side by side. Lesson: 05_evaluate."""

from contextlib import nullcontext

from hermes_nb import models
from hermes_nb.evaluate.preferring import held_out
from hermes_nb.evaluate.styles import behaviour, plain_stops


def compare(recipe, adapters: dict, merged, pairs, conversations=None) -> dict:
    """Score base, each adapter of `adapters` (name to folder, in order) and the folder `merged` on held-out rows.

    Returns name to `{sampled, greedy, held_out, plain}`. DPO's rewards take the stage before it as the reference.
    """
    part = recipe.model
    tokenizer = models.tokenizer(part.base, part.template, part.revision)
    model = models.load_4bit(part.base, revision=part.revision, needs_gb=recipe.needs_gb)
    if adapters:
        model = models.load_adapters(model, adapters)
    out, start = {}, None
    for name in ("base", *adapters):
        with models.active(model, name) if adapters else nullcontext():
            out[name], start = _score(model, tokenizer, recipe, pairs, conversations, start if name == "dpo" else None)
    if merged is not None:
        del model
        plain = models.load_plain(str(merged), models.saved_dtype(merged))
        out["merged"], _ = _score(plain, tokenizer, recipe, pairs, conversations, None)
    return out


def _score(model, tokenizer, recipe, pairs, conversations, start) -> tuple[dict, tuple]:
    """All that is measured of one model, and its log-probabilities as a reference for the next."""
    scores, logps = held_out(model, tokenizer, conversations, pairs, start, recipe.dpo.beta)
    out = behaviour(model, tokenizer, pairs, recipe, recipe.seed) | {"held_out": scores}
    if recipe.evaluate.plain_questions:
        out["plain"] = plain_stops(model, tokenizer, recipe.evaluate.plain_questions)
    return out, logps
