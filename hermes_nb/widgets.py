"""Thin bindings between a running notebook and the pure functions of `plots`. Lessons: 00_tour, 03_dpo."""

import base64
import io
import time

from hermes_nb import history, plots, views


def png(fig) -> bytes:
    """A figure as PNG bytes, small enough to keep in a committed notebook."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=96)
    return small(out.getvalue())


def small(picture: bytes) -> bytes:
    """The same PNG with 96 colours: our figures have few, and it takes a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.quantize(96, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def show(fig) -> None:
    """Show a figure as the output of the running cell."""
    from IPython.display import Image, display

    display(Image(png(fig)))


class Live:
    """A `watch` for `sft.train` and `dpo.train`: one figure, redrawn in place at most twice a second.

    It has drawn the last step when training ends, so that an executed notebook keeps the whole curve. `seconds`
    counts the time that drawing took.
    """

    def __init__(self, every: float = 0.5):
        self.every, self.drawn_at, self.handle = every, float("-inf"), None
        self.seconds, self.count = 0.0, 0

    def __call__(self, rows: list[dict], step: int, steps: int) -> None:
        """Redraw, unless the last picture is younger than `every` seconds and steps are still to come."""
        begun = time.perf_counter()
        # a picture costs about 0.2 s on two cores; waiting 25 times that keeps drawing under 4 % of the time
        wait = max(self.every, 25 * (self.seconds / max(1, self.count)))
        if step < steps and begun - self.drawn_at < wait:
            return
        self._draw(rows, steps)
        self.drawn_at = time.perf_counter()
        self.seconds += self.drawn_at - begun
        self.count += 1

    def _draw(self, rows: list[dict], steps: int) -> None:
        from IPython.display import Image, display

        picture = Image(png(plots.curves(history.frame(rows), steps)))
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)


def table(rows: list[dict]) -> object:
    """Rows of plain data as an HTML table; every text is escaped, so that no row can bring an element of its own."""
    from IPython.display import HTML

    head = "".join(f"<th style='text-align:left'>{_text(k)}</th>" for k in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left;vertical-align:top'>{_text(v)}</td>" for v in row.values())
        + "</tr>"
        for row in rows
    )
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _text(value) -> str:
    """Text safe to show: `views.text`."""
    return views.text(value)


def show_pair(row: dict) -> None:
    """Show a pair, words that only one side has marked; raises as `views.pair` does. Lesson: 01_preference_data."""
    _show_html(views.pair(row))


def show_tokens(tokenizer, row: dict, side: str = "chosen", max_length: int | None = None) -> None:
    """Show the tokens of a pair's answer `side`, or of a conversation, with their roles, cut at `max_length`.

    Raises as `views.row_tokens` does. Lessons: 01_preference_data, 02.
    """
    title = "conversation" if "messages" in row else side
    _show_html(views.tokens(*views.row_tokens(tokenizer, row, side), max_length, title))


def show_prompts(tokenizer, messages: list[dict]) -> None:
    """Show the same turns rendered with and without the generation prompt. Lesson: 01_preference_data."""
    _show_html(views.prompts(tokenizer, messages))


def show_audit(found) -> None:
    """Show an `audit.Audit`: what was dropped and why, warnings, lengths, languages. Lesson: 01_preference_data."""
    _show_html(views.audit(found))


def _show_html(view: str) -> None:
    """Show static HTML as the output of the running cell."""
    from IPython.display import HTML, display

    display(HTML(view))


def explore(draw, **controls):
    """A figure with controls: `draw(**values)` returns a Figure; each control is an ipywidget.

    One output holds both forms: the live widget where a kernel serves it, and the first figure as a picture, which a
    committed notebook, a code host and print show. Returns the widget box, for tests and further wiring.
    """
    import ipywidgets
    from IPython.display import display

    first = png(draw(**{name: control.value for name, control in controls.items()}))
    image = ipywidgets.Image(value=first, format="png")

    def redraw(change):
        image.value = png(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([*controls.values(), image])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    bundle = {
        "application/vnd.jupyter.widget-view+json": view,
        "image/png": base64.b64encode(first).decode(),
        "text/plain": "a figure with " + ", ".join(controls),
    }
    display(bundle, raw=True)
    return box


def vote(pairs: list[dict], names: tuple[str, str] = ("sft", "dpo"), seed: int = 0):
    """Show a blind A/B vote and return its `evaluate.Ballot`; without a kernel the first pair is there as a picture.

    `pairs` are dicts with `question`, one text under each of `names`, and `rule` (a name or `tie`). Tab reaches the
    buttons and the space bar presses them; the focus stays on the button. Every text is escaped.
    """
    import ipywidgets
    from IPython.display import display

    from hermes_nb import evaluate

    ballot = evaluate.Ballot(pairs, names, seed)
    half = ipywidgets.Layout(width="50%", padding="0 12px 0 0")
    head, left, right = ipywidgets.HTML(), ipywidgets.HTML(layout=half), ipywidgets.HTML(layout=half)
    buttons = {c: ipywidgets.Button(description=c.capitalize(), tooltip=f"vote {c}") for c in ("left", "right", "tie")}

    def show_now():
        head.value, left.value, right.value = _ballot_texts(ballot)
        for button in buttons.values():
            button.disabled = ballot.now() is None

    for choice, button in buttons.items():
        button.on_click(lambda _, choice=choice: (ballot.cast(choice), show_now()))
    show_now()
    ballot.box = ipywidgets.VBox([head, ipywidgets.HBox([left, right]), ipywidgets.HBox(list(buttons.values()))])
    texts = ballot.now()[1]
    first = plots.answers({side: texts[side] for side in ("left", "right")}, texts["question"], 68)
    bundle = {
        "application/vnd.jupyter.widget-view+json": {
            "version_major": 2, "version_minor": 0, "model_id": ballot.box.model_id,
        },
        "image/png": base64.b64encode(png(first)).decode(),
        "text/plain": f"a blind vote over {len(pairs)} pairs: Left, Right or Tie; nobody has voted yet",
    }  # fmt: skip
    display(bundle, raw=True)
    return ballot


def _ballot_texts(ballot) -> tuple[str, str, str]:
    """The three HTML texts of a ballot: progress and question, left answer, right answer; all escaped."""
    now = ballot.now()
    if now is None:
        found, name = ballot.result(), ballot.state["names"][1]
        wins, agrees = found["wins"], found["agrees"]
        line = (
            f"done: {name} wins {wins['value']:.0%} of {wins['n']} (95 % interval {wins['low']:.0%} to "
            f"{wins['high']:.0%}), {found['ties']} ties; agrees with the rule in {agrees['value']:.0%} of {agrees['n']}"
        )
        return f"<b>{_text(line)}</b>", "", ""
    head = f"<b>{len(ballot.state['votes']) + 1} of {len(ballot.pairs)}: {_text(now[1]['question'])}</b>"
    return head, *(f"<b>{side.capitalize()}</b><br>{_text(now[1][side] or '(empty)')}" for side in ("left", "right"))
