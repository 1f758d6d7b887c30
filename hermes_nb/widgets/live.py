"""The live dashboard of a training run. Lessons: 02_qlora_sft, 03_dpo."""

import time

from hermes_nb import history, plots
from hermes_nb.widgets.showing import png


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
