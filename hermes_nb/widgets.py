"""Thin bindings between a running notebook and the pure functions of `plots`. Lessons: 00_tour, 03_dpo."""

import html
import io
import time

from hermes_nb import history, plots


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
    """Text safe to show: escaped, `$` kept from MathJax, line breaks kept."""
    return html.escape(str(value)).replace("$", "<span>$</span>").replace("\n", "<br>")
