"""Any figure with controls, and the choices of controls whose data changes. Lessons: all."""

from hermes_nb import views
from hermes_nb.widgets.showing import label, png, show_box


def explore(draw, **controls):
    """A figure with controls: `draw(**values)` returns a Figure; each control is an ipywidget.

    One output holds both forms: the live widget where a kernel serves it, and the first figure as a picture, which a
    committed notebook, a code host and print show. What `draw` raises later is shown below it.
    Returns the widget box, for tests and further wiring.
    """
    import ipywidgets

    first = png(draw(**{name: control.value for name, control in controls.items()}))
    image, line = ipywidgets.Image(value=first, format="png"), ipywidgets.HTML()

    def redraw(change):
        try:
            image.value = png(draw(**{name: control.value for name, control in controls.items()}))
            line.value = ""
        except Exception as error:  # `draw` is anybody's code, and what a callback raises is lost
            line.value = f"<b>{views.text(f'not drawn: {type(error).__name__}: {error}')}</b>"

    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([*controls.values(), image, line])
    show_box(box, "a figure with " + ", ".join(controls), first)
    return box


def apart(names: list) -> list[str]:
    """Short labels, numbered where two would read the same: as keys they would make two runs one."""
    out = []
    for name in names:
        one, count = label(name, 40), 1
        while one in out:
            count += 1
            one = f"{label(name, 34)} ({count})"
        out.append(one)
    return out


def offer(control, options: list, value=None) -> None:
    """New options of a choice, where they changed; `value`, or what was chosen where it is still there."""
    wanted = control.value if value is None else value
    if list(control.options) != options:
        control.options = options
    values = [one for _, one in options]
    if values:
        control.value = wanted if wanted in values else values[0]
