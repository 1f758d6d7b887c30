"""What every token of a held-out pair earned: a heat map, with the figures on hover and in a list. Lesson: 03_dpo."""

from math import isfinite
from pathlib import Path

from hermes_nb import history, plots, views
from hermes_nb.errors import DataProblem, RequestError
from hermes_nb.plots import picking
from hermes_nb.plots.earned import DOWN, UP, figure_of
from hermes_nb.widgets.showing import Panel, label, png, show_box

STRONGEST = 0xB0  # how opaque the largest value is
PLAIN = {c: s for c, s in views.PLAIN.items() if c != ord("\n")}
CELL = "text-align:left;padding:0 1em 0.5em 0;vertical-align:top;overflow-wrap:anywhere;white-space:pre-wrap"
WAY = {"previous": -1, "next": 1}
NAMED = 3  # tokens a side whose figures are written out, up and down


def token_heat(looks: str | Path | history.Looks, pair: int | None = None) -> Panel:
    """Show what every token of a held-out pair earned: pick the pair, the step and where the colour is full.

    `looks` is a DPO run that looked with tokens kept, or its path; `pair` the first one shown, None for the worst of
    the last step. Raises DataProblem when no tokens were kept, FileProblem as `history.looks`. Lesson: 03_dpo.
    """
    import ipywidgets

    found = looks if isinstance(looks, history.Looks) else history.looks(looks)
    kept, steps = _kept(found, pair)
    names = [(f"pair {p}: {label(_question(found, p), 60)}", p) for p in kept]
    wide = ipywidgets.Layout(width="60%")
    picker = ipywidgets.Dropdown(options=names, description="pair", layout=wide, value=_first(found, kept, pair))
    begin = max(s for s, p in found.tokens if p == picker.value)  # the last look may be half-written
    options = steps if len(steps) > 1 else 2 * steps  # a slider needs two places
    step = ipywidgets.SelectionSlider(options=options, value=begin, description="step", continuous_update=False)
    shares = [("the largest", 1.0), ("1/2 of it", 0.5), ("1/4 of it", 0.25)]
    scale = ipywidgets.SelectionSlider(options=shares, description="full colour", continuous_update=False)
    view = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))

    def redraw(change=None):
        view.value = _heat_at(found, picker.value, step.value, scale.value)

    for control in (picker, step, scale):
        control.observe(redraw, "value")
    redraw()
    way = {name: ipywidgets.Button(description=name, tooltip=f"the {name} pair of the list") for name in WAY}
    for name, button in way.items():
        button.on_click(lambda _, by=WAY[name]: _go(picker, by))
    wrap = ipywidgets.Layout(flex_flow="row wrap")
    rows = [ipywidgets.HBox(row, layout=wrap) for row in ([picker, *way.values()], [step, scale])]
    box = ipywidgets.VBox([*rows, view])
    pieces, values, stops = _sides(found, picker.value, step.value)
    plain = [[piece.translate(PLAIN) for piece in side] for side in pieces]
    picture = png(plots.heat_pair(plain, values, stops, f"pair {picker.value}, step {step.value}"))
    show_box(box, f"what each token of {len(kept)} held-out pairs earned, at steps {steps}", picture)
    return Panel(box, {"pair": picker, **way, "step": step, "scale": scale}, {"view": view})


def _go(picker, by: int) -> None:
    """The pair `by` places down the list: JupyterLab takes the arrow keys of a focused list for itself."""
    picker.index = max(0, min(len(picker.options) - 1, picker.index + by))


def _kept(found: history.Looks, pair: int | None) -> tuple[list[int], list[int]]:
    """Pairs that have tokens, also of step 0, which all others are compared with, and the steps that have some."""
    kept = sorted({p for s, p in found.tokens if s == 0} & {row["pair"] for row in found.pairs})
    if not kept or pair not in (None, *kept):
        which = "no pair" if not kept else f"not pair {pair}"
        raise DataProblem(f"run {found.run!r} kept the tokens of {which}; it kept those of pairs {kept[:20]}.")
    return kept, sorted({s for s, _ in found.tokens})


def _first(found: history.Looks, kept: list[int], pair: int | None) -> int:
    """`pair`, or of those with tokens the one with the smallest margin at the last look."""
    if pair is not None:
        return pair
    worst = picking.order(found, found.steps[-1], "worst")
    return next((p for p in worst if p in kept), kept[0])


def _row(found: history.Looks, pair: int) -> dict:
    return next(row for row in found.pairs if row["pair"] == pair)


def _question(found: history.Looks, pair: int) -> str:
    """What was asked last."""
    return _row(found, pair)["prompt"][-1]["content"]


def _sides(found: history.Looks, pair: int, step: int) -> tuple:
    """Of chosen and rejected: texts of the tokens, what each earned, whether the last is a stop token."""
    row, values = _row(found, pair), found.earned(pair, step)
    if "stops" in row:
        return row["pieces"], values, row["stops"]
    answers = [row[side][-1]["content"] for side in ("chosen", "rejected")]  # histories of old do not say
    stops = [_stopped(texts, answer) for texts, answer in zip(row["pieces"], answers, strict=True)]
    return row["pieces"], values, stops


def _stopped(pieces: list[str], answer: str) -> bool:
    """Whether the last token is no part of the answer's text: the stop token, which an answer cut short has not."""
    return bool(pieces) and bool(pieces[-1].strip()) and "".join(pieces[:-1]).strip() == answer.strip()


def _heat_at(found: history.Looks, pair: int, step: int, share: float) -> str:
    """The heat map of a pair at a step, or why there is none."""
    try:
        return heat_html(*_sides(found, pair, step), share)
    except RequestError as error:
        return f"<b>{views.text(error)}</b>"


def heat_html(pieces, values, stops=(True, True), share: float = 1.0) -> str:
    """Tokens of chosen and of rejected coloured by what each earned, figures on hover and in a list; safe HTML.

    `pieces`, `values`: (chosen, rejected), the texts of the tokens and one number each, `beta * (logp_policy -
    logp_reference)`, whose sum is the reward; `stops`: whether the last one is the stop token. One symmetric scale:
    full colour is at `share` of the largest value; what is no number has none. The attribute `title` holds a number
    and never data. Raises DataProblem where texts and numbers do not fit together. Lesson: 03_dpo.
    """
    for texts, numbers in zip(pieces, values, strict=True):
        if len(texts) != len(numbers):
            raise DataProblem(f"{len(texts)} tokens, {len(numbers)} numbers; each token needs one.")
    sizes = [abs(v) for side in values for v in side if isfinite(v)]
    limit = share * max([0.0, *sizes])
    sums = [sum(side) for side in values]
    heads = [f"{name}: reward {figure_of(total, 2)}" for name, total in zip(("chosen", "rejected"), sums, strict=True)]
    cells = [_cell(*side, limit) for side in zip(pieces, values, stops, strict=True)]
    said = [_stop_said(*side) for side in zip(("chosen", "rejected"), values, stops, strict=True)]
    parts = [figure_of(number, 2) for number in (*sums, sums[0] - sums[1])]
    head = f"margin = {parts[0]} - ({parts[1]}) = {parts[2]} (nats x beta)"
    columns = "".join(f"<th style='{CELL};width:50%'>{one}</th>" for one in heads)
    body = "".join(f"<td style='{CELL}'>{one}</td>" for one in cells)
    legend = _legend(limit, len(sizes) == sum(map(len, values)))
    table = f"<table style='width:100%;table-layout:fixed'><tr>{columns}</tr><tr>{body}</tr></table>"
    return f"<div><b>{head}</b><br>Stop token {', '.join(said)}.{table}{legend}</div>"


def _stop_said(name: str, values: list[float], stop: bool) -> str:
    """Whether the stop token of a side won or lost."""
    if not stop:
        return f"of {name}: cut off, so never seen"
    if values[-1] != values[-1]:
        return f"of {name}: no number"
    won = "as it was" if round(values[-1], 3) == 0 else "won" if values[-1] > 0 else "lost"
    return f"of {name}: {values[-1]:+.3f} ({won})"


def _legend(limit: float, numbers: bool) -> str:
    """What the colours mean; `numbers`: every token has one."""
    if not limit and not numbers:
        return "There are tokens without a number, and no other has earned or lost anything: the run blew up."
    if not limit:
        return "At step 0 the policy is the reference: every token is 0."
    ends = f"<kbd style='{_look(1, 1)}'>likelier</kbd> than at step 0, <kbd style='{_look(-1, 1)}'>less likely</kbd>"
    where = "Hover a token for its figure, or open the figures."
    return f"{ends}; full colour at \u00b1{limit:.2g}. Thick frame: the stop token. {where}"


def _look(value: float, limit: float, stop: bool = False) -> str:
    """The style of a token: colour by sign, opacity by size, so that it reads on light and dark pages."""
    strength = min(1.0, abs(value) / limit) if limit and isfinite(value) else 0.0
    frame = "3px solid #888" if stop else "1px solid #8884"
    # `all:unset`: pages that draw kbd as a dark key would hide the colour
    return f"all:unset;border:{frame};background:{UP if value > 0 else DOWN}{round(STRONGEST * strength):02x}"


def _cell(pieces: list[str], values: list[float], stop: bool, limit: float) -> str:
    """One side: its tokens, then the largest figures in words and all of them in a list, for who cannot hover."""
    last, out = len(pieces) - 1, []
    for at, (piece, value) in enumerate(zip(pieces, values, strict=True)):
        look = _look(value, limit, stop and at == last)
        out.append(
            f"<kbd title='{figure_of(value)}' style='{look}'>{_shown(piece)}</kbd>" + "<br>" * piece.endswith("\n")
        )
    ranked = sorted((one for one in zip(values, pieces, strict=True) if isfinite(one[0])), key=lambda one: one[0])
    up = [f"{_shown(p)} {v:+.3f}" for v, p in ranked[::-1][:NAMED] if v > 0]
    down = [f"{_shown(p)} {v:+.3f}" for v, p in ranked[:NAMED] if v < 0]
    body = f"<div style='font-family:monospace;line-height:1.9'>{''.join(out)}</div>"
    every = "<br>".join(f"{_shown(p)} {figure_of(v)}" for v, p in zip(values, pieces, strict=True))
    figures = f"<details><summary>figures</summary><div style='font-family:monospace'>{every}</div></details>"
    return f"{body}most up: {', '.join(up) or 'none'}<br>most down: {', '.join(down) or 'none'}{figures}"


def _shown(piece: str) -> str:
    """One token as text: newlines as arrows, blanks alone as signs, an empty one as \u2205."""
    return views.text(piece.replace("\n", "\u21b5")) if piece.strip(" ") else "\u2423" * len(piece) or "\u2205"
