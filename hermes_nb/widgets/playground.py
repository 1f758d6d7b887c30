"""Losses to play with: beta, margin, smoothing and kind against a run's own pairs. Lesson: 03_dpo."""

import math

from hermes_nb.errors import DataProblem
from hermes_nb.history import Looks
from hermes_nb.plots import losses
from hermes_nb.views import text
from hermes_nb.widgets.showing import Panel, choice, png, show_box

NAMES = {
    "sigmoid": "sigmoid (DPO)",
    "robust": "robust (rDPO)",
    "exo_pair": "exo_pair (EXO)",
    "hinge": "hinge (RSO)",
    "ipo": "ipo (IPO)",
    "discopop": "discopop (DiscoPOP)",
}
SAYS = {
    "sigmoid": "Every pair pulls, the less the larger its margin.",
    "robust": "Smoothing s is the share of pairs taken to be labelled the wrong way round; what they do on average is "
    "taken back, so the loss may fall below 0, and with s above 0 no pair stops pulling.",
    "exo_pair": "The pull fades on both sides: a pair far below 0 moves as little as an easy one.",
    "hinge": "A pair pulls with full weight until its margin is 1, then not at all.",
    "ipo": "Both sides pull to the target h = 1 / (2 beta). TRL divides each answer's log-probs by its tokens before "
    "this loss: read margins here as such averages, and divide the pull by the tokens. A run's margins are sums; "
    "their averages lie closer to 0.",
    "discopop": "Between margins of about -0.12 and 0.07 the weight is below 0: a pair at the start is pulled the "
    "wrong way, into a dip of the loss.",
}


def loss_playground(margins=(), beta: float | None = None) -> Panel:
    """Loss, gradient weight and pull over the margin, with sliders, one pair of yours, and the pairs of a run.

    `margins` are those of a run's held-out pairs (nats times beta) or its `history.Looks`, of which the last look
    counts. `beta` is where the slider starts and, for plain margins, the beta they were measured with; None: the
    run's own, else 0.1. Another beta moves the ticks: the same log-prob differences under that beta. Raises
    DataProblem when beta is not above 0. The formulas: `plots.loss_at`. Lesson: 03_dpo.
    """
    import ipywidgets

    values, own, source, lost = _run(margins, beta)
    beta = own if beta is None else beta
    controls = _controls(beta)
    image, line = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def draw():
        now = {name: control.value for name, control in controls.items()}
        scaled = [m * now["beta"] / own for m in values]
        image.value = png(losses.loss_curves(**now, margins=scaled))
        line.value = playground_line(**now, margins=scaled, source=source, measured=own, lost=lost)

    def redraw(change):
        try:
            draw()
        except (DataProblem, ArithmeticError, ValueError) as error:  # a margin or beta that no axis takes
            line.value = f"<p>{text(error)}</p>"  # raised in a callback it would be lost

    for control in controls.values():
        control.observe(redraw, "value")
    draw()
    rows = [ipywidgets.HBox([controls[a], controls[b]]) for a, b in (("kind", "beta"), ("margin", "smoothing"))]
    box = ipywidgets.VBox([*rows, image, line])
    about = f", with {len(values)} pairs of a run" if values else ""
    show_box(box, f"loss and pull of a pair over its margin, with {', '.join(controls)}{about}", image.value)
    return Panel(box, controls, {"image": image, "line": line})


def _run(margins, beta: float | None) -> tuple[list[float], float, str, int]:
    """Finite margins, the beta they were measured with, where they are from, and how many were not finite."""
    own, source = 0.1 if beta is None else beta, ""
    if isinstance(margins, Looks):
        step = margins.steps[-1]
        own, source, margins = margins.beta, f"{margins.run}, step {step}", margins.margins(step)
    for one in (own, beta):
        if one is not None and not one > 0:
            raise DataProblem(f"beta is {one}; it must be above 0.")
    every = [float(m) for m in margins]
    kept = [m for m in every if math.isfinite(m)]
    return kept, own, source, len(every) - len(kept)


def _controls(beta: float) -> dict:
    """Four controls by the argument that they set."""
    import ipywidgets

    look = {"style": {"description_width": "9.5em"}, "layout": ipywidgets.Layout(width="28em")}
    ends = {"min": min(-2.0, math.log10(beta)), "max": max(0.0, math.log10(beta))}
    options = [(NAMES[kind], kind) for kind in losses.LOSSES]
    slider, reach = ipywidgets.FloatSlider, losses.REACH
    return {
        "kind": choice("loss", options, style={"description_width": "9.5em"}),
        "beta": ipywidgets.FloatLogSlider(
            value=beta, **ends, step=0.05, description="beta", readout_format=".3g", **look
        ),
        "margin": slider(value=0.0, min=-reach, max=reach, step=0.1, description="margin of a pair", **look),
        "smoothing": slider(value=0.0, min=0.0, max=0.45, step=0.01, description="label smoothing", **look),
    }


def playground_line(
    kind: str, margin: float, beta: float, smoothing: float, margins=(), source: str = "", measured: float = 0.1,
    lost: int = 0,
) -> str:  # fmt: skip
    """What the figure of `loss_playground` shows, in words, as HTML; `source` names the run and is escaped.

    `margins` are at `beta`, once `measured` with another; `lost` counts those that were not finite. Lesson: 03_dpo.
    """
    if losses.missing(kind, smoothing):
        return f"<p><b>{text(losses.missing(kind, smoothing))}</b></p>"
    facts = losses.loss_facts(kind, margin, beta, smoothing, margins)
    way = {-1: "chosen down, rejected up", 0: "nothing moves", 1: "chosen up, rejected down"}[
        (facts["pull"] > 0) - (facts["pull"] < 0)
    ]
    said = [
        f"<b>Your pair</b>: loss {facts['loss']:.4g}; gradient weight {facts['weight']:+.4g}; pull on each log-prob "
        f"beta x weight = {beta:.3g} x {facts['weight']:.4g} = {facts['pull']:+.4g}: {way}.",
        _about_run(facts, margins, source, beta / measured, lost),
        SAYS[kind] + (_about_smoothing(kind) if smoothing > 0 else ""),
    ]
    return "".join(f"<p>{one}</p>" for one in said if one)


def _about_run(facts: dict, margins, source: str, factor: float, lost: int) -> str:
    """The run's pairs in words."""
    pairs, below = facts["pairs"], facts["below"]
    said = f"{lost} margins are not finite and left out. " if lost else ""
    if not pairs:
        return said
    name = f" ({text(source)})" if source else ""
    said += f"<b>The run's {pairs} pairs</b>{name}: mean loss {facts['mean_loss']:.4g}; {below} of {pairs} "
    said += f"({below / pairs:.0%}) have a margin below 0 and {facts['share']:.0%} of the total pull"
    harder = _harder(facts)
    said += f": one of them pulls {harder:.2g} times as hard as one of the others." if harder else "."
    if abs(factor - 1) > 1e-6:
        said += f" Their margins are {factor:.3g} times the measured ones: the same log-probs under this beta."
    out = sum(abs(m) > losses.REACH for m in margins)
    return said + (f" {out} lie beyond the axis, drawn at its edge." if out else "")


def _harder(facts: dict) -> float | None:
    """Mean pull of the pairs below 0 over that of the others; None where one side is empty or does not pull."""
    below, others, share = facts["below"], facts["pairs"] - facts["below"], facts["share"]
    return (share / below) / ((1 - share) / others) if 0 < share < 1 else None


def _about_smoothing(kind: str) -> str:
    """What label smoothing above 0 does not do."""
    if kind not in losses.SMOOTHED:
        return f" <b>{kind} does not use label smoothing</b>: that slider changes nothing."
    cdpo = "Smoothed, it is conservative DPO (cDPO). <b>TRL 1.16's own sigmoid ignores label_smoothing</b>: there the"
    return f" {cdpo} curve stays that of 0." if kind == "sigmoid" else ""
