"""The live dashboard of a training run, with a button that ends it cleanly. Lessons: 02_qlora_sft, 03_dpo."""

import sys
import time

from hermes_nb import plots
from hermes_nb.widgets import events
from hermes_nb.widgets.showing import Panel, png, show_box

SHARE = 0.02  # of the training time that drawing may take
RECENT = 10  # steps that the speed is taken from
METRICS = 64  # rows that a step has at most; a long run's first ones need not be read twice a second
STOPPING = "stopping after this step: a checkpoint and an adapter will be left, and the same cell goes on from there"


class Live:
    """A `watch` for `sft.train` and `dpo.train`: one figure with all curves, drawn again in place, and a Stop button.

    In a notebook the figure is drawn at most twice a second and in less than 2 % of the training time; when training
    ends it becomes a plain picture. Stop ends the run after the current step, with a checkpoint and an adapter. In a
    terminal, and in a notebook that is executed without anybody in front of it, there is a progress bar and, in the
    notebook, the picture at the end. `seconds` counts the time that drawing took.
    """

    def __init__(self, every: float = 0.5):
        self.every, self.seconds, self.count = every, 0.0, 0
        self.begun = self.drawn_at = self.told_at = None
        self.board = self.bar = self.panel = self.handle = None
        self.stopped = False

    def __call__(self, rows: list[dict], step: int, steps: int) -> bool:
        """Show what is new; True when the run is to end after this step."""
        if self.begun is None:
            self._begin(rows, steps)
        events.let_in()
        last = step >= steps or self.stopped
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
        elif not last:
            self._tell(rows, step, steps)
            if self._due():
                self._redraw(rows)
        if last:
            self._end(rows, step, steps)
        return self.stopped

    def _begin(self, rows: list[dict], steps: int) -> None:
        self.begun = time.perf_counter()
        self.board = plots.Board({row["metric"] for row in rows}, steps)
        self.board.feed(rows)
        if events.somebody_looks():
            self.panel = self._open()
            self._spent(self.begun)
        else:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, unit="step", file=sys.stderr, dynamic_ncols=True)

    def _open(self):
        """Show the box: a line of text, the button, the figure."""
        import ipywidgets

        text, picture = ipywidgets.HTML(), ipywidgets.Image(format="png", value=self.board.picture())
        stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="end after this step, with an adapter")
        stop.on_click(lambda _: self.stop())
        box = ipywidgets.VBox([ipywidgets.HBox([stop, text]), picture])
        self.handle = show_box(box, "the dashboard of a run; it becomes a picture when the run ends", replaceable=True)
        return Panel(box, {"stop": stop}, {"text": text, "picture": picture})

    def stop(self) -> None:
        """Ask for the end of the run after its current step, as the button does."""
        self.stopped = True
        if self.panel is not None:
            self.panel.controls["stop"].disabled = True
            self.panel.outputs["text"].value = STOPPING

    def _due(self) -> bool:
        """Whether to draw now: not sooner than `every`, and only from time that is not spent yet."""
        now = time.perf_counter()
        next_one = self.seconds / self.count  # what a picture has cost on the average
        return now - self.drawn_at >= self.every and self.seconds + next_one <= SHARE * (now - self.begun)

    def _tell(self, rows: list[dict], step: int, steps: int) -> None:
        """The line of text, which costs next to nothing, at most twice a second."""
        now = time.perf_counter()
        if self.told_at is None or now - self.told_at >= self.every:
            self.panel.outputs["text"].value = status(rows, step, steps)
            self.told_at = now

    def _redraw(self, rows: list[dict]) -> None:
        begun = time.perf_counter()
        self.board.feed(rows)
        self.panel.outputs["picture"].value = self.board.picture()
        self._spent(begun)

    def _spent(self, begun: float) -> None:
        self.drawn_at = time.perf_counter()
        self.seconds += self.drawn_at - begun
        self.count += 1

    def _end(self, rows: list[dict], step: int, steps: int) -> None:
        """Close the bar, and leave the whole figure as a plain picture in the place of the box."""
        self.board.feed(rows)
        if self.bar is not None:
            self.bar.close()
        if events.kernel() is None:
            return
        from IPython.display import Image, display

        final = Image(png(self.board.figure()))
        if self.handle is None:
            display(final)
        else:
            self.handle.update(final)


def status(rows: list[dict], step: int, steps: int) -> str:
    """One line on a run: step, tokens a second, peak memory, time left; from the tidy rows of its history."""
    found = {}
    for row in rows[-RECENT * METRICS :]:
        if row["split"] == "train" and row["metric"] in ("seconds", "tokens", "peak_gb"):
            found.setdefault(row["metric"], []).append((row["step"], row["value"]))
    parts = [f"step {step} of {steps}"]
    seconds = found.get("seconds", [])[-RECENT:]
    if len(seconds) > 1:
        (first, begun), (last, now) = seconds[0], seconds[-1]
        each = (now - begun) / max(1, last - first)
        tokens = dict(found.get("tokens", []))
        if each > 0 and first in tokens and last in tokens:
            parts.append(f"{(tokens[last] - tokens[first]) / (now - begun):,.0f} tokens a second")
        parts.append(f"about {duration(each * (steps - step))} left")
    if "peak_gb" in found:
        parts.insert(-1 if len(parts) > 1 else 1, f"{found['peak_gb'][-1][1]:.1f} GB at most")
    return " \u00b7 ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
