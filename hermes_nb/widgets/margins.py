"""Held-out pairs of DPO runs as they move: margins, rewards, and the pair behind a point. Lesson: 03_dpo."""

import threading
from contextlib import contextmanager

from hermes_nb import history, views
from hermes_nb.errors import DataProblem, RequestError
from hermes_nb.plots import explorer, picking
from hermes_nb.widgets.exploring import apart, offer
from hermes_nb.widgets.showing import Panel, choice, label, png, show_box, table

NONE_LEFT = "No pair fits the filters; clear the search or widen the kind, the source or the length."


def margin_explorer(runs, names: dict | None = None) -> Panel:
    """Show the held-out pairs of DPO runs at every step they looked: slide through the steps, filter, pick a pair.

    `runs`: a stage folder, a history file or a `history.Looks`; or a dict of label to such, drawn over one another.
    `names`: kind to label. Refresh reads the files again, so that a run can be watched while it trains. Of several runs
    only pairs that all have with the same texts are shown, and the first run gives the order. Raises FileProblem as
    `history.looks`, DataProblem when runs share no pair. Lesson: 03_dpo.
    """
    shown = _Explorer(
        runs if isinstance(runs, dict) else {"": runs}, {kind: label(name, 40) for kind, name in (names or {}).items()}
    )
    steps, count = shown.controls["step"].options, len(picking.shared(shown.runs))
    text = f"margins of {count} held-out pairs at steps {steps[0][0]} to {steps[-1][0]}; runs: {', '.join(shown.runs)}"
    show_box(shown.box, text, shown.outputs["figure"].value)
    return Panel(shown.box, shown.controls, shown.outputs)


def _problems() -> tuple:
    """What a file that changes while it is shown can bring."""
    from traitlets import TraitError  # a value that a control does not take

    return RequestError, OSError, ValueError, KeyError, TypeError, IndexError, TraitError


class _Explorer:
    """The controls, what they show now, and the runs that were read last."""

    def __init__(self, sources: dict, names: dict):
        self.sources, self.names, self.busy, self.told = sources, names, False, None
        self.lock = threading.RLock()
        self.runs = self._read()
        counts = [1 + len({str(pair.get(name) or "") for pair in self.first.pairs}) for name in ("kind", "source")]
        self.controls, self.outputs = _controls(*counts), _outputs()
        self.box = _box(self.controls, self.outputs)
        self._choices()
        self._show(first=True)  # not `update`: an error here shall reach the cell, not an empty picture
        for name, control in self.controls.items():
            if name not in ("refresh", "order", "previous", "next"):
                control.observe(self.update, "value")
        self.controls["order"].observe(lambda _: self.update(first=True), "value")
        self.controls["refresh"].on_click(self.refresh)
        self.controls["previous"].on_click(lambda _: self._go(-1))
        self.controls["next"].on_click(lambda _: self._go(1))

    def _go(self, by: int) -> None:
        """Pick the pair `by` places down the list: in a notebook the arrow keys move from cell to cell, not in it."""
        pick = self.controls["pair"]
        with self.lock:
            if not pick.options:
                return
            pick.index = max(0, min(len(pick.options) - 1, pick.index + by))

    def _read(self) -> dict[str, history.Looks]:
        """The runs as their files are now."""
        read = [s if isinstance(s, history.Looks) else history.looks(s) for s in self.sources.values()]
        names = [run.run if name == "" else name for name, run in zip(self.sources, read, strict=True)]
        runs = dict(zip(apart(names), read, strict=True))
        if not runs or not picking.shared(runs):
            raise DataProblem(f"runs {', '.join(runs)} share no held-out pair; compare runs on the same held-out rows.")
        return runs

    @property
    def first(self) -> history.Looks:
        """The run that gives the order."""
        return next(iter(self.runs.values()))

    def refresh(self, _=None) -> None:
        """Read the files again; stay at the newest step where that was shown."""
        with self.lock:
            before = self.runs
            try:
                self.runs = self._read()
                with self._alone():
                    self._choices()
            except _problems() as error:
                self.runs = before
                self.outputs["note"].value = f"<b>{views.text(f'not refreshed: {error}')}</b>"
                return
            self.told = None
            self.update()

    @contextmanager
    def _alone(self):
        """While this thread sets controls it draws nothing for them; a change of another thread waits and is drawn."""
        with self.lock:
            self.busy = True
            try:
                yield
            finally:
                self.busy = False

    def _choices(self) -> None:
        """What the controls offer, from the runs; what was chosen stays where it is still there."""
        step, length = self.controls["step"], self.controls["length"]
        newest = step.value == step.options[-1][1]
        steps = sorted({s for looks in self.runs.values() for s in looks.steps})
        pairs = {p["pair"]: p for p in self.first.pairs}
        lengths = [len(pairs[number]["pieces"][0]) for number in picking.shared(self.runs)]
        offer(step, [(str(s), s) for s in (steps if len(steps) > 1 else 2 * steps)], steps[-1] if newest else None)
        for name, plural in (("kind", "kinds"), ("source", "sources")):
            found = sorted({str(p.get(name) or "") for p in pairs.values()})
            named = [label(self.names.get(value, value) if name == "kind" else value) for value in found]
            options = [(line or f"no {name}", f"={value}") for line, value in zip(named, found, strict=True)]
            offer(self.controls[name], [(f"all {plural}", ""), *options])
        if (length.min, length.max) != (span := (min(lengths), max(min(lengths) + 1, *lengths))):
            length.max, length.min = max(span[1], length.max), span[0]  # never below the lower end
            length.max, length.value = span[1], span

    def update(self, change=None, first: bool = False) -> None:
        """Show what the controls ask for; `first` picks the first pair of the order."""
        with self.lock:
            if self.busy:  # set by this very thread
                return
            try:
                with self._alone():
                    self._show(first)
            except _problems() as error:
                self.outputs["note"].value = f"<b>{views.text(error)}</b>"

    def _kept(self) -> list[int]:
        """Pairs that fit the filters."""
        asked = {name: self.controls[name].value for name in ("kind", "source")}
        equal = {name: value[1:] if value else None for name, value in asked.items()}
        length, search = self.controls["length"].value, self.controls["search"].value
        shared = set(picking.shared(self.runs))
        return [p for p in picking.select(self.first, **equal, length=length, search=search) if p in shared]

    def _show(self, first: bool) -> None:
        step, keep = self.controls["step"].value, set(self._kept())
        listed = [p for p in picking.order(self.first, step, self.controls["order"].value) if p in keep]
        pick = self.controls["pair"]
        pair = pick.value if pick.value in listed and not first else next(iter(listed), None)
        margins = picking.seen(self.first, step).margin
        offer(pick, [(_line(self._row(p), margins[p]), p) for p in listed], pair)
        self.outputs["figure"].value = png(explorer.margins_at(self.runs, step, keep, pair, self.names))
        self.outputs["note"].value = self._note(len(keep))
        self.outputs["numbers"].value = "" if pair is None else self._numbers(pair, step)
        if self.told != (pair,):
            self._tell(pair)
            self.told = (pair,)

    def _row(self, pair: int) -> dict:
        return next(row for row in self.first.pairs if row["pair"] == pair)

    def _note(self, left: int) -> str:
        """What a reader has to know about what is shown."""
        said = [] if left else [NONE_LEFT]
        if len(self.runs) > 1:
            said.append(f"The list is in the order of {next(iter(self.runs))}.")
        if len({looks.beta for looks in self.runs.values()}) > 1:
            said.append("Margins are in nats x beta and beta differs: compare signs and order of the runs, not sizes.")
        missing = len(self.first.pairs) - len(picking.shared(self.runs))
        if missing:
            said.append(f"{missing} pairs are not the same in all runs and are left out.")
        return views.text(" ".join(said))

    def _numbers(self, pair: int, step: int) -> str:
        """Where the pair comes from, and its margin and rewards in every run."""
        row, rows = self._row(pair), []
        for name, looks in self.runs.items():
            at, seen = picking.at(looks, step), picking.seen(looks, step)
            figures = seen.loc[pair, ["margin", "reward_chosen", "reward_rejected"]] if pair in seen.index else {}
            said = {key.replace("_", " of "): f"{value:+.3g}" for key, value in figures.items()}
            rows.append({"run": name, "beta": f"{looks.beta:g}", "step": at} | said)
        kind = self.names.get(row.get("kind"), row.get("kind") or "none")
        origin = f"pair {pair}; kind: {kind}; source: {row.get('source') or 'none'}"
        origin += "" if row.get("row") is None else f", row {row['row']}"
        return f"<b>{views.text(origin)}</b>{table(rows).data}"

    def _tell(self, pair: int | None) -> None:
        """The texts of the pair and its way through the steps."""
        curve, text = self.outputs["curve"], self.outputs["text"]
        curve.layout.display = "none" if pair is None else None
        text.value = "" if pair is None else views.pair(self._row(pair))
        if pair is not None:
            curve.value = png(explorer.margin_over_steps(self.runs, pair))


def _line(row: dict, margin: float) -> str:
    """A pair as one line of the list."""
    return f"{margin:+.3f}  pair {row['pair']}: {label(row['prompt'][-1]['content'], 60)}"


def _controls(kinds: int, sources: int) -> dict:
    """All controls, still empty, for so many kinds and sources; every description is ours, data stands in options."""
    import ipywidgets as w

    wide, words, whole = (
        w.Layout(width="99%"),
        w.Layout(width="auto", min_width="130px"),
        {"description_width": "initial"},
    )
    return {
        "step": w.SelectionSlider(options=[("0", 0), ("0", 0)], description="step"),
        "refresh": w.Button(description="Refresh", tooltip="read the files again", layout=words),
        "kind": choice("kind", [("all kinds", "")], kinds),
        "source": choice("source", [("all sources", "")], sources),
        "length": w.IntRangeSlider(min=0, max=1, description="chosen tokens", continuous_update=False, style=whole),
        "search": w.Text(description="search", placeholder="a text, then Enter", continuous_update=False),
        "order": choice("order", list(picking.ORDERS)),
        "previous": w.Button(description="Previous", tooltip="the pair above in the list", layout=words),
        "next": w.Button(description="Next", tooltip="the pair below in the list", layout=words),
        "pair": w.Select(options=[], description="pair", rows=6, layout=wide),
    }


def _outputs() -> dict:
    import ipywidgets as w

    def picture():
        return w.Image(format="png", layout=w.Layout(max_width="100%", align_self="flex-start"))

    outs = {name: w.HTML(layout=w.Layout(width="100%")) for name in ("note", "numbers", "text")}
    return outs | {"figure": picture(), "curve": picture()}


def _box(controls: dict, outputs: dict):
    """How it stands on the page: filters, figure, list of pairs, the picked pair."""
    import ipywidgets as w

    rows = ("step", "refresh"), ("kind", "source"), ("length", "search"), ("order", "previous", "next")
    *top, way = [w.HBox([controls[name] for name in row], layout=w.Layout(flex_flow="row wrap")) for row in rows]
    picked = [way, controls["pair"], *(outputs[n] for n in ("numbers", "curve", "text"))]
    return w.VBox([*top, outputs["note"], outputs["figure"], *picked])
