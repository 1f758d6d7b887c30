"""Figures, tables and views as the output of a cell; a control panel with a picture for readers without a kernel."""

import base64
import io
from dataclasses import dataclass, field

from hermes_nb import views

FEW = 6  # options that are buttons in a row


def png(fig) -> bytes:
    """A figure as PNG bytes, small enough to keep in a committed notebook."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=96)
    return small(out.getvalue())


def small(picture: bytes) -> bytes:
    """The same PNG with 48 colours: our figures have few, and it takes less than a third of the bytes."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.quantize(48, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def show(fig) -> None:
    """Show a figure as the output of the running cell."""
    from IPython.display import Image, display

    display(Image(png(fig)))


def table(rows: list[dict]) -> object:
    """Rows of plain data as an HTML table; every text is escaped, so that no row can bring an element of its own."""
    from IPython.display import HTML

    head = "".join(f"<th style='text-align:left'>{views.text(k)}</th>" for k in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left;vertical-align:top'>{views.text(v)}</td>" for v in row.values())
        + "</tr>"
        for row in rows
    )
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def choice(description: str, options: list, count: int | None = None, **look):
    """A choice that can be made by keys: a row of buttons (Tab, space), or a list where options are more than six.

    JupyterLab takes the arrow keys of a focused list for itself, and letters for commands. `count` says how many there
    will be, where `options` are not known yet; they hold text of data through `label` alone.
    """
    import ipywidgets

    if (len(options) if count is None else count) > FEW:
        return ipywidgets.Dropdown(options=options, description=description, **look)
    style = {"button_width": "auto"} | look.get("style", {})
    return ipywidgets.ToggleButtons(options=options, description=description, style=style)


def label(value, width: int = 70) -> str:
    """`str(value)` as one short line of plain text, for options of a Dropdown or Select, which show text and no HTML.

    Control, bidi and zero-width characters are spelled out as in `views.text`; longer text ends in an ellipsis.
    """
    line = " ".join(str(value).split()).translate(views.PLAIN)
    return line if len(line) <= width else line[: width - 1] + "\u2026"


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


@dataclass(repr=False)
class Panel:
    """What an interactive view hands back: the box that is shown, its controls and its outputs by name."""

    box: object
    controls: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Panel with {', '.join([*self.controls, *self.outputs])}"  # one line, when it is the last of a cell


def bundle(box, text: str, picture: bytes | None = None, html: str = "") -> dict:
    """One output in every form: the live widget where a kernel serves it, else a picture or HTML, else `text`.

    A code host, print and a committed notebook show the second form; `html` must be escaped already.
    """
    out = {"text/plain": text}
    if picture is not None:
        out["image/png"] = base64.b64encode(picture).decode()
    if html:
        out["text/html"] = html
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view} | out


def show_box(box, text: str, picture: bytes | None = None, html: str = "", replaceable: bool = False):
    """Show a widget box as the output of the running cell, with its static form beside it: `bundle`.

    Where `replaceable`, returns IPython's handle, whose `update` puts something else in its place.
    """
    from IPython.display import display

    shown = bundle(box, text, picture, html)
    return display(shown, raw=True, display_id=True) if replaceable else display(shown, raw=True)
