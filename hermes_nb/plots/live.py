"""The dashboard of a training run: a figure that is drawn again many times, cheaply. Lessons: 02_qlora_sft, 03_dpo.

Axes, ticks and words are drawn once and kept as a picture; a redraw lays only the lines on it, and all is drawn anew
when a line leaves its axes. That takes about a fifth of the time.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hermes_nb.plots.base import CHOSEN, MARGIN, NEUTRAL, REJECTED, WIDTH, legend

LAST = 5  # steps of the running mean
STARTS = 0.02  # how near to ln 2 a loss of DPO starts that is -log sigmoid(margin) alone
UNIT = "nats x beta"


@dataclass(frozen=True)
class Line:
    """One metric in a panel: its running mean in bold over the steps, and points where pairs were looked at."""

    metric: str
    label: str
    colour: str
    style: str = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Plan:
    """One panel: what it is called, its axis and its lines, what it shows before there is a line, and a mark."""

    name: str
    unit: str
    lines: tuple
    limits: tuple[float, float]
    mark: tuple[float, str] | None = None
    band: bool = False


DPO = (
    Plan("loss", "loss (nats)", (Line("loss", "loss", CHOSEN),), (0.0, 0.8), (float(np.log(2)), "ln 2")),
    Plan("reward", f"reward ({UNIT})", (Line("reward_chosen", "chosen", CHOSEN),
         Line("reward_rejected", "rejected", REJECTED, "--", "s")), (-0.3, 0.4), (0.0, "")),
    Plan("margin", f"margin ({UNIT})", (Line("margin", "margin", MARGIN),), (-0.3, 0.6), (0.0, ""), band=True),
    Plan("accuracy", "share of pairs", (Line("accuracy", "accuracy", "#CC79A7"),), (-0.03, 1.03), (0.5, "a coin")),
)  # fmt: skip
SFT = (
    Plan("loss", "loss (nats a token)", (Line("loss", "loss", CHOSEN),), (0.0, 2.0)),
    Plan("token accuracy", "share of tokens", (Line("token_accuracy", "next token right", MARGIN),), (0.0, 1.03)),
)  # fmt: skip


@dataclass
class Panel:
    """One panel's axes and artists."""

    plan: Plan
    ax: object
    limits: list[float]
    title: object
    marks: tuple
    artists: dict = field(default_factory=dict)


def running_mean(values, last: int = LAST) -> np.ndarray:
    """Mean of each value and the `last - 1` before it (fewer at the start); what is not finite is left out."""
    values = np.asarray(values, float)
    there = np.isfinite(values)
    sums, counts = (
        np.cumsum(np.concatenate([[0.0], part])) for part in (np.where(there, values, 0.0), there.astype(float))
    )
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - last)
    return (sums[ends] - sums[starts]) / np.maximum(1.0, counts[ends] - counts[starts])


class Board:
    """Curves of a stage that grow: `feed` tidy rows, then take a `picture` (fast) or the `figure` (whole).

    DPO: loss, rewards of chosen and rejected, margin with a band, accuracy. SFT: loss, token accuracy. The bold line is
    the mean of the last five steps, the pale one the steps. Points are held-out pairs, looked at now and then; the band
    holds the middle 80 % of their margins, or, for a run that does not look, one standard deviation of the last steps.
    """

    def __init__(self, metrics, steps: int):
        plans = [p for p in (DPO if "margin" in metrics else SFT) if p.lines[0].metric in metrics]
        columns, rows = min(2, len(plans)), (len(plans) + 1) // 2
        height = 0.25 + 2.55 * rows
        self.fig = Figure(figsize=(WIDTH, height), dpi=96)
        self.canvas, self.kept = FigureCanvasAgg(self.fig), None
        self.data, self.seen = {}, 0
        self.fig.patch.set_alpha(0.0)
        axes = self.fig.subplots(rows, columns, squeeze=False).flatten()
        for spare in axes[len(plans) :]:
            self.fig.delaxes(spare)
        bottom, top = 0.68 / height, 1 - 0.32 / height
        self.fig.subplots_adjust(left=0.075, right=0.975, bottom=bottom, top=top, wspace=0.2, hspace=0.42)
        self.panels = [_panel(ax, plan, steps) for ax, plan in zip(axes, plans, strict=False)]
        self.foot = self.fig.text(0.975, 0.05 / height, "", color=NEUTRAL, fontsize=8, ha="right", va="bottom")

    def feed(self, rows: list[dict]) -> None:
        """Take the tidy rows behind those that are known."""
        for row in rows[self.seen :]:
            at, values = self.data.setdefault((row["split"], row["metric"]), ([], []))
            at.append(row["step"])
            values.append(row["value"])
        self.seen = len(rows)
        told = self.foot.get_text()
        self.foot.set_text(self._told())
        # an axis has grown, or what the marks mean has changed
        if any([self._update(panel) for panel in self.panels]) or told != self.foot.get_text():
            self.kept = None

    def _told(self) -> str:
        """What bold, points and band mean."""
        parts = [f"bold: mean of {LAST} steps"]
        looked = len(self.data.get(("looks", "margin"), ([], []))[0])
        if looked:
            parts.append("points: held-out pairs")
        if any(panel.plan.band for panel in self.panels):
            wide = "the middle 80 % of held-out margins" if looked > 1 else f"one standard deviation of {LAST} steps"
            parts.append(f"band: {wide}")
        return "   ".join(parts)

    def figure(self) -> Figure:
        """The whole figure, as any other."""
        for artist in self._artists():
            artist.set_animated(False)
        return self.fig

    def picture(self) -> bytes:
        """The figure as PNG bytes, lines laid on the kept picture of all else."""
        from PIL import Image

        if self.kept is None:
            for artist in self._artists():
                artist.set_animated(True)
            self.canvas.draw()
            self.kept = self.canvas.copy_from_bbox(self.fig.bbox)
        self.canvas.restore_region(self.kept)
        for panel in self.panels:
            for artist in (*panel.artists.values(), panel.title):
                panel.ax.draw_artist(artist)
        out = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).save(out, "PNG", compress_level=1)
        return out.getvalue()

    def _artists(self) -> list:
        return [a for p in self.panels for a in (*p.artists.values(), p.title)]

    def _update(self, panel: Panel) -> bool:
        """Lay the panel's data into its artists; True when its axis has grown."""
        every, said = [], []
        for line in panel.plan.lines:
            at, values = self.data.get(("train", line.metric), ([], []))
            smooth = running_mean(values)
            panel.artists[line.metric].set_data(at, smooth)
            panel.artists[line.metric, "steps"].set_data(at, values)
            panel.artists[line.metric, "looks"].set_data(*self.data.get(("looks", line.metric), ([], [])))
            every += [*values, *self.data.get(("looks", line.metric), ([], []))[1]]
            if len(smooth):
                said.append(f"{line.label} {smooth[-1]:+.2f}" if len(panel.plan.lines) > 1 else f"{smooth[-1]:.2f}")
        if panel.plan.band:
            every += self._band(panel)
        first = self.data.get(("train", panel.plan.lines[0].metric), ([], [panel.plan.mark and panel.plan.mark[0]]))[1][
            0
        ]
        for mark in panel.marks if panel.plan.name == "loss" else ():
            mark.set_visible(abs(first - panel.plan.mark[0]) < STARTS)  # other losses start elsewhere
        panel.title.set_text(f"{panel.plan.name}: {', '.join(said)}" if said else panel.plan.name)
        finite = [v for v in every if np.isfinite(v)]
        low, high = min([*finite, panel.limits[0]]), max([*finite, panel.limits[1]])
        if (low, high) == tuple(panel.limits):
            return False
        room = 0.3 * (high - low)  # so that the next steps need no new axis
        panel.limits = [low - room * (low < panel.limits[0]), high + room * (high > panel.limits[1])]
        panel.ax.set_ylim(*panel.limits)
        return True

    def _band(self, panel: Panel) -> list[float]:
        """The band around the margin: of the looks where there are at least two, else of the last steps."""
        at, low = self.data.get(("looks", "margin_low"), ([], []))
        high = self.data.get(("looks", "margin_high"), ([], []))[1]
        if len(at) < 2:
            at, values = self.data.get(("train", "margin"), ([], []))
            mean = running_mean(values)
            spread = np.sqrt(np.maximum(0.0, running_mean(np.square(values)) - mean**2)) if at else mean
            low, high = mean - spread, mean + spread
        there = np.concatenate([np.column_stack([at, low]), np.column_stack([at, high])[::-1]]) if len(at) else None
        panel.artists["band"].set_verts([] if there is None else [there])
        return [*low, *high]


def _panel(ax, plan: Plan, steps: int) -> Panel:
    """A panel with empty lines."""
    ax.patch.set_alpha(0.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(NEUTRAL)
    ax.tick_params(colors=NEUTRAL, labelsize=8)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.set(xlim=(0, max(1, steps)), ylim=plan.limits)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.set_xlabel("step", color=NEUTRAL, fontsize=8, labelpad=1)
    ax.set_ylabel(plan.unit, color=NEUTRAL, fontsize=8)
    marks = ()
    if plan.mark:
        where = {"transform": ax.get_yaxis_transform(), "color": NEUTRAL, "fontsize": 8, "ha": "right", "va": "bottom"}
        marks = (
            ax.axhline(plan.mark[0], color=NEUTRAL, linestyle=":", linewidth=1),
            ax.text(0.995, plan.mark[0], plan.mark[1], **where),
        )
    panel = Panel(plan, ax, list(plan.limits), ax.set_title("", color=NEUTRAL, fontsize=10, loc="left"), marks)
    if plan.band:
        panel.artists["band"] = ax.add_collection(PolyCollection([], facecolor=MARGIN, alpha=0.18, linewidth=0))
    for line in plan.lines:
        look = {"color": line.colour, "linestyle": line.style}
        hidden = {"label": f"_{line.label}, each step", "alpha": 0.35, "linewidth": 0.8}
        panel.artists[line.metric, "steps"] = ax.plot([], [], **hidden, **look)[0]
        panel.artists[line.metric] = ax.plot([], [], linewidth=2, label=line.label, **look)[0]
        style = {"marker": line.marker, "linestyle": "", "markersize": 6, "markerfacecolor": "none", "clip_on": False}
        panel.artists[line.metric, "looks"] = ax.plot([], [], color=line.colour, **style)[0]
    if len(plan.lines) > 1:
        legend(ax, loc="upper left", fontsize=8, ncols=2)
    return panel


def curves(table, steps: int | None = None) -> Figure:
    """Curves of one stage from its tidy history, as `Board` draws them; `steps` is the width of the step axis."""
    rows = table[["step", "split", "metric", "value"]].to_dict("records")
    board = Board(set(table.metric), steps or int(table.step.max()))
    board.feed(rows)
    return board.figure()
