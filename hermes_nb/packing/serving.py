"""Which way of attention serves a model, tried out on it; none where it cannot be served exactly."""

from hermes_nb.packing.install import OUTPUTS, install, kinds, learns_prompts, uninstall, why_not
from hermes_nb.packing.proof import differs


def serve(
    model, longest: int, attention: str = "auto", pairs: bool = True, outputs: tuple[str, ...] = OUTPUTS
) -> tuple[str | None, str]:
    """Let the base of `model` compute packed rows; returns the way of attention, or None, and the reason in words.

    `longest` is the length in tokens of the longest row, or side of a pair; `attention` one of `KINDS` or `auto`;
    `outputs` are TRL's names of what the head computes. Where nothing serves exactly, the model is left as it was.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if learns_prompts(model):
        return None, "its adapter puts learned tokens before the text"
    why = why_not(base.config, longest)
    if why:
        return None, why
    if attention not in ("auto", *kinds(base)):
        return None, f"attention {attention} is not served here; there is {', '.join(kinds(base))}"
    training, against = model.training, []
    model.eval()  # dropout would be drawn anew for each cut
    try:
        for kind in kinds(base) if attention == "auto" else (attention,):
            why = differs(base, kind, pairs)
            if why is None:
                uninstall(base)
                install(base, kind, pairs, outputs)
                return kind, "; ".join(["its scores are those of padded rows", *against])
            against.append(why)
    finally:
        model.train(training)
    return None, "; ".join(against)
