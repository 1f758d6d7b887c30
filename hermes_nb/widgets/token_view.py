"""A row's tokens under a slider: where `max_length` cuts, and which side still ends. Lesson: 01_preference_data."""

import threading

from hermes_nb import views
from hermes_nb.errors import DataProblem
from hermes_nb.widgets.showing import Panel, show_box

SHORTEST = 8  # where the slider begins, unless less was asked for
KEPT = 64  # rows whose tokens are remembered
ODD = (ValueError, KeyError, TypeError, IndexError, AttributeError)  # what rows of any shape can raise
SIDES = {"both": ("chosen", "rejected"), "chosen": ("chosen",), "rejected": ("rejected",)}
WHOLE, CUT, GONE = "still ends with its stop token", "is cut before its stop token", "has nothing left"
BOTH = {
    WHOLE: "both still end with their stop tokens", CUT: "both are cut before their stop tokens",
    GONE: "both have nothing left",
}  # fmt: skip
LOOK = "line-height:1.4"  # ipywidgets' own lines are 28 pixels high
FEW = {"description_width": "90px"}


def answers(tokenizer, row: dict, side: str = "both") -> dict[str, tuple[list[str], list[str]]]:
    """Texts and roles of the tokens of a row: for a pair by `chosen` and `rejected`, else for the `conversation`.

    Raises DataProblem as `views.row_tokens` does, and for characters that no tokenizer can read.
    Lesson: 01_preference_data.
    """
    from jinja2 import TemplateError

    names = SIDES[side]
    # conversations may have a column `prompt` as well, which is a string
    for part in ["messages"] if "messages" in row else {"prompt", "chosen", "rejected"} & set(row):
        _check_characters(part, row[part])
    try:
        if "messages" in row:
            return {"conversation": views.row_tokens(tokenizer, row)}
        return {name: views.row_tokens(tokenizer, row, name) for name in names}
    except TemplateError as error:
        raise DataProblem(f"the chat template refuses this row: {error}") from error


def _check_characters(part: str, turns: list[dict]) -> None:
    """A tokenizer says of such a row only that its type is wrong."""
    if not turns:
        raise DataProblem(f"{part} is empty; the audit drops such rows.")
    try:
        "".join(turn["role"] + turn["content"] for turn in turns).encode("utf-8")
    except UnicodeEncodeError:
        raise DataProblem(
            f"{part} has a lone surrogate, which no tokenizer reads; the audit drops such rows."
        ) from None
    except (TypeError, KeyError):
        raise DataProblem(f"{part} is not a list of turns with role and content; use formats.load.") from None


def state(roles: list[str], limit: int) -> str:
    """What `max_length` leaves of an answer: it still ends, is cut before its stop token, or nothing is left.

    `roles` are those of `views.row_tokens`, where the answer's tokens are `trained` or `stop`; `limit` is in tokens.
    Lesson: 01_preference_data.
    """
    learned = [at for at, role in enumerate(roles) if role in ("trained", "stop")]
    if not learned or learned[0] >= limit:
        return GONE
    return WHOLE if roles[learned[-1]] == "stop" and learned[-1] < limit else CUT


def sentence(sides: dict[str, list[str]], limit: int) -> str:
    """Which sides keep their stop token at `max_length` = `limit`, and what DPO makes of it; roles by side.

    Plain text without any data. Lessons: 01_preference_data, 03.
    """
    found = {name: state(roles, limit) for name, roles in sides.items()}
    same = BOTH[found["chosen"]] if len(found) == 2 and len(set(found.values())) == 1 else ""
    said = f"at max_length {limit}: " + (same or ", ".join(f"{name} {what}" for name, what in found.items())) + "."
    if len(found) < 2:
        return said
    ends = [name for name, what in found.items() if what == WHOLE]
    if ends == ["rejected"]:
        return f"{said} The only stop token in sight is on the rejected side, so DPO pushes it down."
    if ends == ["chosen"]:
        return f"{said} The only stop token in sight is on the chosen side, so DPO pushes it up."
    return said if ends else f"{said} This pair says nothing about how to end."


def _html(sides: dict, limit: int) -> str:
    """All sides, one under the other, as HTML."""
    shown = "<br>".join(views.tokens(*both, limit, name) for name, both in sides.items())
    return f"<div style='{LOOK}'>{shown}</div>"


def token_view(tokenizer, rows, max_length: int | None = None, side: str = "both") -> Panel:
    """Show the tokens of one row at a time under two sliders, `max_length` in tokens and the row; returns the Panel.

    `rows` are pairs or conversations (a Dataset, a list, or one row), `side` is `both`, `chosen` or `rejected`.
    Without `max_length` nothing is cut at first. A row that cannot be tokenized is told in a sentence. Raises
    DataProblem without rows, for another side and for a `max_length` below 1. Lessons: 01_preference_data, 02.
    """
    if max_length is not None and max_length < 1:
        raise DataProblem(f"token_view: max_length {max_length} leaves no token; give 1 or more, or None.")
    if side not in SIDES:
        raise DataProblem(f"token_view has no side {side!r}; it is one of {', '.join(SIDES)}.")
    rows = [rows] if isinstance(rows, dict) else rows
    if not len(rows):
        raise DataProblem("token_view needs at least one row; all rows were filtered out, or the file is empty.")
    return _View(tokenizer, rows, max_length, side).panel


class _View:
    """The two sliders, the sentence and the tokens of `token_view`."""

    def __init__(self, tokenizer, rows, max_length: int | None, side: str):
        import ipywidgets

        self.tokenizer, self.rows, self.side, self.wanted = tokenizer, rows, side, max_length
        self.now, self.cache, self.lock, self.moving = {}, {}, threading.RLock(), False
        wide = ipywidgets.Layout(width="min(100%, 700px)")
        low = min(SHORTEST, SHORTEST if max_length is None else max_length)
        self.limit = ipywidgets.IntSlider(low, low, SHORTEST, description="max_length", style=FEW, layout=wide)
        self.row = ipywidgets.IntSlider(0, 0, len(rows) - 1, description="row", style=FEW, layout=wide)
        self.said, self.tokens = ipywidgets.HTML(), ipywidgets.HTML()
        self.show_row()
        self.limit.observe(self.cut, "value")
        self.row.observe(self.show_row, "value")
        box = ipywidgets.VBox([*[self.row][: len(rows) - 1], self.limit, self.said, self.tokens])
        controls = {"max_length": self.limit, "row": self.row}
        self.panel = Panel(box, controls, {"sentence": self.said, "tokens": self.tokens})
        text = f"tokens of {len(rows)} rows, sliders for the row and max_length; row 0, {self.words}"
        show_box(box, text, html=f"{self.said.value}{self.tokens.value}")

    def sides(self) -> dict:
        """The tokens of the row that is chosen now; a row is tokenized once while it is among the last shown."""
        at = self.row.value
        found = self.cache.pop(at, None) or answers(self.tokenizer, self.rows[at], self.side)
        self.cache[at] = found  # the newest stands last
        while len(self.cache) > KEPT:
            del self.cache[next(iter(self.cache))]
        return found

    def show_row(self, change=None) -> None:
        """Fit the slider to the row: one that was whole stays whole, a limit that was asked for stays."""
        with self.lock:
            try:
                self.now = self.sides()
            except DataProblem as problem:
                self.now = {}
                return self.say(str(problem), "")
            except ODD as error:
                self.now = {}
                return self.say(f"this row cannot be tokenized: {type(error).__name__}: {error}", "")
            longest = max(len(pieces) for pieces, _ in self.now.values())
            self.moving = True  # the slider's own changes are not the reader's
            self.limit.max = max(SHORTEST, longest + 4)
            self.limit.value = min(self.limit.max, longest if self.wanted is None else self.wanted)
            self.moving = False
            self.draw()

    def cut(self, change) -> None:
        """The reader moved `max_length`: remember it, unless nothing is cut there."""
        with self.lock:
            if self.now and not self.moving:
                self.wanted = None if change["new"] >= self.limit.max - 4 else change["new"]
                self.draw()

    def draw(self) -> None:
        """The sentence and the tokens as they are now."""
        roles = {name: roles for name, (_, roles) in self.now.items()}
        self.say(sentence(roles, self.limit.value), _html(self.now, self.limit.value))

    def say(self, words: str, tokens: str) -> None:
        """Put a sentence, which is escaped here, above tokens, which are HTML already."""
        self.words, self.tokens.value = words, tokens
        self.said.value = f"<div style='{LOOK}'><b>{views.text(words)}</b></div>"
