"""Any figure with controls. Lessons: all."""

from hermes_nb.widgets.showing import png, show_box


def explore(draw, **controls):
    """A figure with controls: `draw(**values)` returns a Figure; each control is an ipywidget.

    One output holds both forms: the live widget where a kernel serves it, and the first figure as a picture, which a
    committed notebook, a code host and print show. Returns the widget box, for tests and further wiring.
    """
    import ipywidgets

    first = png(draw(**{name: control.value for name, control in controls.items()}))
    image = ipywidgets.Image(value=first, format="png")

    def redraw(change):
        image.value = png(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([*controls.values(), image])
    show_box(box, "a figure with " + ", ".join(controls), first)
    return box
