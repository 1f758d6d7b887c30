"""The live dashboard of a training run, with a button that ends it cleanly. Lessons: 02_qlora_sft, 03_dpo."""

import sys
import time

from hermes_nb import plots
from hermes_nb.widgets import events
from hermes_nb.widgets.showing import Panel, png, show_box

SHARE = 0.02  # of the training time that drawing may take
RECENT = 10  # steps that the speed is taken from
STOPPING = "stopping after this step: a checkpoint and an adapter will be left, and the same cell goes on from there"


class Live:
    """A `watch` for `sft.train` and `dpo.train`: one figure with all curves, drawn again in place, and a Stop button.

    In a notebook the figure is drawn at most twice a second and in less than 2 % of the training time (the first and
    the last picture come whatever they cost); when training ends it becomes a plain picture. Stop ends the run after
    the current step, with a checkpoint and an adapter. In a terminal, and in a notebook that is executed without
    anybody in front of it, there is a progress bar and, in the notebook, the picture at the end. `seconds` counts the
    time that drawing took. One object shows one run at a time, and may be used again for the next.
    """

    def __init__(self, every: float = 0.5):
        self.every, self.done = every, True
        self._reset()

    def _reset(self) -> None:
        self.seconds, self.count = 0.0, 0
        self.begun = self.drawn_at = self.told_at = None
        self.board = self.bar = self.panel = self.handle = None
        self.stopped = self.done = False

    def __call__(self, rows: list[dict], step: int, steps: int) -> bool:
        """Show what is new; True when the run is to end after this step."""
        if self.done:
            self._reset()
        if self.begun is None:
            self._begin(rows, step, steps)
        if self.panel is not None:
            events.let_in(self.panel.controls["stop"])
        last = step >= steps or self.stopped
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
        elif not last:
            self._show(rows, step, steps)
        if last:
            self._finish(rows)
        return self.stopped

    def over(self, rows: list[dict]) -> None:
        """The run has ended, by itself, by an interrupt or an error: leave the figure as a plain picture."""
        if self.begun is not None:
            self._finish(rows)
        self.done = True

    def stop(self) -> None:
        """Ask for the end of the run after its current step, as the button does."""
        self.stopped = True
        if self.panel is not None:
            self.panel.controls["stop"].disabled = True
            self.panel.outputs["text"].value = STOPPING

    def _begin(self, rows: list[dict], step: int, steps: int) -> None:
        self.begun = time.perf_counter()
        self.board = plots.Board({row["metric"] for row in rows}, steps)
        self.board.feed(rows)
        if events.somebody_looks():
            self.panel = self._open()
            self._spent(self.begun)
        else:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=step - 1, unit="step", file=sys.stderr, dynamic_ncols=True)

    def _open(self) -> Panel:
        """Show the box: a line of text, the button, the figure."""
        import ipywidgets

        text, picture = ipywidgets.HTML(), ipywidgets.Image(format="png", value=self.board.picture())
        stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="end after this step, with an adapter")
        stop.on_click(lambda _: self.stop())
        box = ipywidgets.VBox([ipywidgets.HBox([stop, text]), picture])
        self.handle = show_box(box, "the dashboard of a run; it becomes a picture when the run ends", replaceable=True)
        return Panel(box, {"stop": stop}, {"text": text, "picture": picture})

    def _show(self, rows: list[dict], step: int, steps: int) -> None:
        """The line of text at most twice a second; the figure too, but only from time that is not spent yet."""
        begun = time.perf_counter()
        if self.told_at is None or begun - self.told_at >= self.every:
            self.board.feed(rows)
            self.panel.outputs["text"].value = status(self.board.data, step, steps)
            self.told_at = begun
            self.seconds += time.perf_counter() - begun
        next_one = self.seconds / self.count  # what a picture has cost on the average
        if begun - self.drawn_at >= self.every and self.seconds + next_one <= SHARE * (begun - self.begun):
            begun = time.perf_counter()
            self.board.feed(rows)
            self.panel.outputs["picture"].value = self.board.picture()
            self._spent(begun)

    def _spent(self, begun: float) -> None:
        self.drawn_at = time.perf_counter()
        self.seconds += self.drawn_at - begun
        self.count += 1

    def _finish(self, rows: list[dict]) -> None:
        """Close the bar, and leave the whole figure as a plain picture in the place of the box, or of the last one."""
        begun = time.perf_counter()
        if self.bar is not None:
            self.bar.close()
        if events.kernel() is not None:
            from IPython.display import Image, display

            self.board.feed(rows)
            final = Image(png(self.board.figure()))
            if self.handle is None:
                self.handle = display(final, display_id=True)
            else:
                self.handle.update(final)
        self.seconds += time.perf_counter() - begun


def status(data: dict, step: int, steps: int) -> str:
    """One line on a run: step, tokens a second, peak memory, time left; from a board's `data`.

    `data`: (split, metric) to a list of steps and one of values. Looks at held-out pairs that are to come count as long
    as the last one took.
    """
    parts = [f"step {step} of {steps}"]
    at, seconds = (column[-RECENT:] for column in data.get(("train", "seconds"), ([], [])))
    tokens = dict(zip(*(column[-RECENT:] for column in data.get(("train", "tokens"), ([], []))), strict=True))
    passed = seconds[-1] - seconds[0] if seconds else 0.0
    if passed > 0 and at[0] in tokens and at[-1] in tokens:
        parts.append(f"{(tokens[at[-1]] - tokens[at[0]]) / passed:,.0f} tokens a second")
    peak = data.get(("train", "peak_gb"), ([], []))[1]
    if peak:
        parts.append(f"{peak[-1]:.1f} GB at most")
    if passed > 0:
        looks = [data.get(("looks", name), ([], [0.0]))[1][-1] for name in ("seconds", "to_come")]
        left = passed / (at[-1] - at[0]) * (steps - step) + looks[0] * looks[1]
        parts.append(f"about {duration(left)} left")
    return " \u00b7 ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
