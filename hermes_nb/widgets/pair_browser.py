"""Pairs one at a time, and filters for which of them: source, kind, length, text. Lesson: 01_preference_data."""

import threading
from collections import Counter
from dataclasses import dataclass

import numpy as np

from hermes_nb import views
from hermes_nb.errors import DataProblem
from hermes_nb.widgets.showing import Panel, choice, label, show_box

BATCH = 1000  # texts tokenized at once, so that a large set does not fill the memory
MOST = 200  # options of a list; rarer sources are reached by text search or by paging
LONGER = {"all": 0, "chosen longer": 1, "rejected longer": -1}
STYLE = {"description_width": "110px"}
NONE = "(none)"  # what a row without source or kind is filed under


@dataclass
class Table:
    """What the filters look at, one entry a row: values of `source` and `kind` (None where no row has one) and more.

    `lengths` is an array of chosen and rejected, in `unit` (words or tokens); `texts` are the whole pair with its
    source and kind, case folded.
    """

    source: list[str]
    kind: list[str] | None
    lengths: np.ndarray
    texts: list[str]
    unit: str


def columns(rows, tokenizer=None) -> Table:
    """Read the filters' columns once: `lengths` in words of the answers, or in tokens when there is a `tokenizer`.

    Raises DataProblem when there are no rows or the first is no pair; later rows that are none have no text.
    Lesson: 01_preference_data.
    """
    if not len(rows):
        raise DataProblem("pair_browser needs at least one row; all rows were filtered out, or the file is empty.")
    missing = [part for part in ("prompt", "chosen", "rejected") if part not in rows[0]]
    if missing:
        raise DataProblem(f"the rows have no column {', '.join(missing)}; pair_browser shows pairs, see formats.load.")
    said, source, kind, texts = [], [], [], []
    for row in rows:
        said.append([_said(row.get(part)) for part in ("prompt", "chosen", "rejected")])
        source.append(str(row.get("source") or NONE))
        kind.append(str(row.get("kind") or NONE))
        marks = [str(row.get(name) or "") for name in ("source", "kind")]
        texts.append("\n".join([*said[-1], *marks]).casefold())
    sizes = [_sizes([parts[side] for parts in said], tokenizer) for side in (1, 2)]
    return Table(
        source, kind if set(kind) != {NONE} else None, np.array(sizes).T, texts, "tokens" if tokenizer else "words"
    )


def _said(turns) -> str:
    """The contents of turns as one text; nothing of what is no turn."""
    turns = turns if isinstance(turns, list) else []
    found = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    return "\n".join(content for content in found if isinstance(content, str))


def _sizes(texts: list[str], tokenizer) -> list[int]:
    if tokenizer is None:
        return [len(text.split()) for text in texts]
    sizes, options = [], {"add_special_tokens": False, "return_attention_mask": False}
    for begin in range(0, len(texts), BATCH):
        # no tokenizer reads a lone surrogate
        batch = [text.encode("utf-8", "replace").decode() for text in texts[begin : begin + BATCH]]
        sizes += map(len, tokenizer(batch, **options)["input_ids"])
    return sizes


def matching(
    table: Table, source: str = "", kind: str = "", length: tuple | None = None, longer: int = 0, search: str = ""
) -> list[int]:  # fmt: skip
    """Row numbers that pass all filters; those left out, 0 and empty text let everything through.

    `length` is the first and last length of chosen in the table's unit; `longer` is 1 where chosen must be longer, -1
    where rejected must be; `search` is text that must stand somewhere in the pair, its source or its
    kind, whatever its case and the blanks around it. Lesson: 01_preference_data.
    """
    chosen, rejected = table.lengths.T
    keep = np.ones(len(chosen), bool) if longer == 0 else np.sign(chosen - rejected) == longer
    if length is not None:
        keep &= (chosen >= length[0]) & (chosen <= length[1])
    for wanted, values in ((source, table.source), (kind, table.kind)):
        if wanted:
            keep &= np.fromiter((value == wanted for value in values), bool, len(chosen))
    folded = search.strip().casefold()
    return [at for at in np.flatnonzero(keep).tolist() if folded in table.texts[at]]


def _options(values: list[str]) -> list[tuple[str, str]]:
    """`all` and the most frequent values with their counts, as options that show plain text."""
    counts = Counter(values).most_common(MOST)
    return [("all", ""), *((f"{label(value, 48)}: {n}", value) for value, n in counts)]


def _head(table: Table, row: dict, at: int, left: list[int]) -> str:
    """How many are left, and where the pair shown comes from."""
    count = f"<b>{len(left)} of {len(table.texts)} pairs</b>"
    if not left:
        return f"{count}. Nothing is left: widen the lengths, clear the search, or choose all."
    origin = [f"{name} {label(row[name])}" for name in ("source", "row", "kind") if row.get(name) not in (None, "")]
    sizes = f"chosen {table.lengths[at][0]}, rejected {table.lengths[at][1]} {table.unit}"
    return f"{count}, this is number {left.index(at) + 1}: {views.text(', '.join([*origin, sizes]))}"


def _pair(row: dict) -> str:
    """The pair or what is wrong with it, in lines closer than those of ipywidgets, which are 28 pixels high."""
    try:
        return f"<div style='line-height:1.4'>{views.pair(row)}</div>"
    except DataProblem as problem:
        return f"<b>{views.text(problem)}</b>"


def pair_browser(rows, tokenizer=None) -> Panel:
    """Show pairs one at a time, with filters by source, kind, length, longer side and text; returns the Panel.

    `rows` is a Dataset or a list of pairs; lengths are words, or tokens when there is a `tokenizer`. The pair shown
    stays while it passes the filters. 20,000 rows are read in about two seconds, in words; tokens take about
    a second for every thousand rows. Raises as `columns` does.
    Lesson: 01_preference_data.
    """
    return _Browser(rows, columns(rows, tokenizer)).panel


class _Browser:
    """The filters, the buttons and the pair of `pair_browser`."""

    def __init__(self, rows, table: Table):
        import ipywidgets

        self.rows, self.table, self.lock, self.at = rows, table, threading.RLock(), 0
        self.left, self.moving = list(range(len(table.texts))), False
        self.filters, self.steps = _filters(table), _steps()
        self.head, self.pair = ipywidgets.HTML(), ipywidgets.HTML()
        self.steps["pair"].max = len(self.left)
        self.show()
        for control in self.filters.values():
            control.observe(self.filter, "value")
        self.steps["pair"].observe(self.move, "value")
        for name, by in (("previous", -1), ("next", 1)):
            self.steps[name].on_click(lambda _, by=by: self.step(by))
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        places = [ipywidgets.HBox(list(part.values()), layout=wrap) for part in (self.filters, self.steps)]
        box = ipywidgets.VBox([*places, self.head, self.pair])
        self.panel = Panel(box, self.filters | self.steps, {"head": self.head, "pair": self.pair})
        text = f"a browser over {len(self.left)} pairs with filters: {', '.join(self.filters)}; it shows the first pair"
        show_box(box, text, html=f"{self.head.value}{self.pair.value}")

    def filter(self, change=None) -> None:
        """Find what is left; the pair shown stays if it is among them, else the first one follows."""
        with self.lock:
            self.left = matching(self.table, **{name: control.value for name, control in self.filters.items()})
            slider, count = self.steps["pair"], len(self.left)
            if self.left and self.at not in self.left:
                self.at = self.left[0]
            self.moving = True  # the slider's own changes are not the reader's
            slider.max = max(1, count)
            slider.value = 1 + (self.left.index(self.at) if self.left else 0)
            self.moving = False
            self.show()

    def step(self, by: int) -> None:
        """One pair back or on; at an end, stay."""
        slider = self.steps["pair"]
        slider.value = min(slider.max, max(slider.min, slider.value + by))

    def move(self, change) -> None:
        """The reader chose a place among those left."""
        with self.lock:
            if self.left and not self.moving:
                self.at = self.left[min(self.steps["pair"].value, len(self.left)) - 1]
                self.show()

    def show(self) -> None:
        """Head, pair and buttons as they are now."""
        row, count = self.rows[self.at], len(self.left)
        place = self.left.index(self.at) if count else 0
        self.head.value = _head(self.table, row, self.at, self.left)
        self.pair.value = _pair(row) if count else ""
        self.steps["previous"].disabled = place == 0
        self.steps["next"].disabled = place >= count - 1
        self.steps["pair"].disabled = count < 2


def _filters(table: Table) -> dict:
    """The controls that choose pairs, by the names of `matching`'s arguments."""
    import ipywidgets

    longest = max(1, int(table.lengths[:, 0].max()))
    out = {"search": ipywidgets.Text(description="search", placeholder="text or source", style=STYLE)}
    for name, values in (("source", table.source), ("kind", table.kind)):
        if values is not None and len(set(values)) > 1:
            out[name] = choice(name, _options(values), style=STYLE)
    options = list(LONGER.items())
    out["longer"] = choice("longer", options, style=STYLE)
    out["length"] = ipywidgets.IntRangeSlider(
        value=(0, longest),
        min=0,
        max=longest,
        description=f"chosen, {table.unit}",
        style=STYLE,
        continuous_update=False,
    )
    return out


def _steps() -> dict:
    """Buttons and a slider that move through what is left."""
    import ipywidgets

    return {
        "previous": ipywidgets.Button(description="previous", tooltip="the pair before this one"),
        "next": ipywidgets.Button(description="next", tooltip="the pair after this one"),
        "pair": ipywidgets.IntSlider(1, 1, 1, description="pair", style=STYLE, continuous_update=False),
    }
