"""Evidence with its uncertainty: stops, lengths, accuracy, calibration, judges, form, votes. Lesson: 05_evaluate."""

import math

from matplotlib.figure import Figure

from hermes_nb.plots.base import CHOSEN, GREY, KINDS, NEUTRAL, REJECTED, WIDTH, figure, legend

MARKS = ("o", "s", "^", "D")


def _whisker(ax, at: float, found: dict, flat: bool = False, **style) -> None:
    """A point with its interval at `at`, vertical unless `flat`; `found` is `{value, low, high}`."""
    spread = [[max(0.0, found["value"] - found["low"])], [max(0.0, found["high"] - found["value"])]]
    style = {"capsize": 3, "linewidth": 1.5, "markersize": 6, "linestyle": "none"} | style
    if flat:
        ax.errorbar(found["value"], at, xerr=spread, **style)
    else:
        ax.errorbar(at, found["value"], yerr=spread, **style)


def stops_and_lengths(live: dict, pooled: dict | None = None) -> Figure:
    """Who ends by itself, and how long answers are: two panels, one point a model, with 95 % intervals.

    `live` and `pooled` (several seeds, hollow) are model name to a summary of `evaluate.summary`.
    """
    fig, axes = figure(2, 3.0)
    names = list(live) + [n for n in pooled or {} if n not in live]
    sets = [(live, CHOSEN, "o", CHOSEN, "this run", -0.12)]
    if pooled:
        sets.append((pooled, REJECTED, "s", "none", "three seeds, shipped", 0.12))
    for ax, key, label in ((axes[0], "stops", "share that ends by itself"), (axes[1], "tokens", "tokens, mean")):
        for data, colour, mark, face, what, shift in sets:
            for i, name in ((i, n) for i, n in enumerate(names) if n in data):
                shown = what if name == next(iter(data)) else None
                style = {"color": colour, "marker": mark, "markerfacecolor": face, "label": shown}
                _whisker(ax, i + shift, data[name][key], **style)
        ax.set_xticks(range(len(names)), names)
        ax.set(ylabel=label, xlim=(-0.6, len(names) - 0.4))
        ax.set_title("Stops" if key == "stops" else "Length")
    axes[0].set_ylim(0, 1.08)
    axes[1].set_ylim(0, None)
    legend(axes[0], loc="lower right")
    return fig


def kinds_and_baselines(total: dict, by_kind: dict, baseline: dict, names: dict) -> Figure:
    """Accuracy in all and by kind of pair beside choosers that see only length, with 95 % intervals.

    `total` is a rate, `by_kind` kind to rate, `baseline` the result of `evaluate.length_baseline`, `names` kind to
    label.
    """
    fig, (ax,) = figure(1, 3.4)
    columns = [("in all", total, baseline)] + [(names[k], by_kind[k], baseline["by_kind"][k]) for k in by_kind]
    for i, (_, found, lengths) in enumerate(columns):
        first = i == 0
        _whisker(ax, i, found, color=CHOSEN, marker="o", label="reward of chosen above rejected" if first else None)
        for part, shift, mark in (("longer", -0.2, "^"), ("shorter", 0.2, "v")):
            shown = f"always picks the {part}" if first else None
            _whisker(ax, i + shift, lengths[part], color=GREY, marker=mark, label=shown, alpha=0.8)
    ax.axhline(0.5, color=NEUTRAL, linestyle=":", linewidth=1)
    ax.axvline(0.5, color=NEUTRAL, linewidth=0.6)
    ax.set_xticks(range(len(columns)), [f"{name}\nn = {found['n']}" for name, found, _ in columns])
    ax.set(ylim=(-0.03, 1.05), ylabel="share of held-out pairs")
    ax.set_title("Accuracy in all hides the kinds (dotted: a coin)")
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return fig


def paired_table(found: dict, a: str, b: str, what: str) -> Figure:
    """The four counts of `evaluate.paired` as squares: questions by which of the models `a` and `b` succeeded."""
    fig, (ax,) = figure(1, 3.0)
    counts = [[found["both"], found["only_a"]], [found["only_b"], found["neither"]]]
    most = max(1, *(n for row in counts for n in row))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            tells = x != y
            side = 0.92 * math.sqrt(count / most)
            colour = REJECTED if (x, y) == (1, 0) else CHOSEN if tells else GREY
            square = (x + 0.5 - side / 2, y + 0.5 - side / 2)
            ax.add_patch(_square(square, side, colour, 0.75 if tells else 0.35))
            box = {"facecolor": "white", "alpha": 0.75, "pad": 2, "edgecolor": "none"}
            ax.text(x + 0.5, y + 0.5, str(count), ha="center", va="center", fontsize=12, color="#202020", bbox=box)
    ax.set(xlim=(0, 2), ylim=(2, 0), aspect="equal")
    ax.set_xticks([0.5, 1.5], [f"{b}: yes", f"{b}: no"])
    ax.set_yticks([0.5, 1.5], [f"{a}: yes", f"{a}: no"])
    ax.grid(False)
    odds = "below 0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"
    ax.set_title(f"{what}: only the coloured squares tell them apart. p {odds}", fontsize=11)
    return fig


def _square(corner: tuple[float, float], side: float, colour: str, alpha: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, facecolor=colour, alpha=alpha, edgecolor="none")


def calibration(bins: list[dict]) -> Figure:
    """Claimed against true: one point a group of pairs of `evaluate.calibration`, the diagonal for an honest model."""
    fig, (ax,) = figure(1, 3.4)
    ax.plot([0.5, 1], [0.5, 1], color=NEUTRAL, linestyle=":", label="as right as it claims")
    for i, group in enumerate(bins):
        shown = f"pairs, about {group['n']} a point" if i == 0 else None
        _whisker(ax, group["predicted"], group["accuracy"], color=CHOSEN, marker="o", label=shown)
    ax.text(0.53, 0.98, "above the line: too modest", color=NEUTRAL, fontsize=9, va="top")
    ax.text(0.98, 0.03, "below: too sure", color=NEUTRAL, fontsize=9, ha="right")
    ax.set(xlim=(0.49, 1.01), ylim=(0, 1.03), xlabel="claimed: sigmoid(|margin|), mean of the group")
    ax.set(ylabel="share where it is right", title="Is a margin a probability?")
    legend(ax, loc="center right")
    return fig


def temperatures(found: dict) -> Figure:
    """Shares of styles by way of decoding, one panel a model: `found` is model to {way: summary}."""
    fig, axes = figure(len(found), 3.0)
    for ax, (name, ways) in zip(axes, found.items(), strict=True):
        floor = [0.0] * len(ways)
        card, padded = ([s[k]["value"] for s in ways.values()] for k in ("card", "padded"))
        rest = [1 - c - p for c, p in zip(card, padded, strict=True)]
        parts = (("card", card, CHOSEN, None), ("padded", padded, REJECTED, "//"), ("neither", rest, GREY, ".."))
        for label, heights, colour, hatch in parts:
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0, "alpha": 0.85}
            bars = ax.bar(range(len(ways)), heights, 0.65, bottom=floor, label=label, **style)
            box = {"facecolor": "white", "alpha": 0.75, "pad": 1, "edgecolor": "none"}
            texts = [f"{h:.0%}" if h > 0.04 else "" for h in heights]
            ax.bar_label(bars, texts, label_type="center", fontsize=9, color="#202020", bbox=box)
            floor = [f + h for f, h in zip(floor, heights, strict=True)]
        ax.set_xticks(range(len(ways)), [f"{way}\nn = {s['card']['n']}" for way, s in ways.items()])
        ax.set(ylim=(0, 1.02), ylabel="share of answers", title=name)
    legend(axes[-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def shares(rows: dict, title: str, xlabel: str = "share", line: float | None = 0.5, note: str = "a coin") -> Figure:
    """Named rates (`{value, low, high, n}`) as points with their 95 % intervals, one a line, and a line to compare."""
    fig, (ax,) = figure(1, 1.1 + 0.42 * len(rows))
    for i, found in enumerate(rows.values()):
        _whisker(ax, i, found, True, color=KINDS[i % len(KINDS)], marker=MARKS[i % len(MARKS)])
        shown = f"{found['value']:.0%}   {found['low']:.0%} to {found['high']:.0%}"
        ax.text(1.02, i, shown, va="center", fontsize=9, color=NEUTRAL, transform=ax.get_yaxis_transform())
    if line is not None:
        ax.axvline(line, color=NEUTRAL, linestyle=":", linewidth=1)
        ax.text(line, -0.62, note, color=NEUTRAL, fontsize=9, ha="center", va="bottom")
    ax.set_yticks(range(len(rows)), [f"{name}, n = {found['n']}" for name, found in rows.items()])
    ax.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.7), xlabel=f"{xlabel} (whiskers: 95 % interval)")
    ax.set_title(title, pad=14)
    return fig


def form_radar(scores: dict) -> Figure:
    """Points for form (0 to 10) by category, one outline a model: `scores` is model to {category: mean}."""
    fig = Figure(figsize=(WIDTH, 4.2), layout="constrained", dpi=96)
    fig.patch.set_alpha(0.0)
    ax = fig.add_subplot(projection="polar")
    ax.patch.set_alpha(0.0)
    names = list(next(iter(scores.values())))
    angles = [2 * math.pi * i / len(names) for i in range(len(names))]
    for (model, mine), colour, mark, dash in zip(scores.items(), KINDS, MARKS, ("-", "--", "-.", ":"), strict=False):
        values = [mine[n] for n in names]
        style = {"color": colour, "marker": mark, "linestyle": dash, "label": model}
        ax.plot([*angles, angles[0]], [*values, values[0]], clip_on=False, **style)
        ax.fill(angles, values, color=colour, alpha=0.12)
    ax.set_xticks(angles, names, color=NEUTRAL)
    ax.tick_params(axis="x", pad=14)
    ax.set_yticks([2, 4, 6, 8, 10], ["2", "4", "6", "8", "10 points"], color=NEUTRAL, fontsize=8)
    ax.set_ylim(0, 10)
    ax.grid(alpha=0.35, linewidth=0.6)
    ax.spines["polar"].set_color(NEUTRAL)
    ax.set_title("Form by rule, 0 to 10 points: not quality", color=NEUTRAL, pad=16)
    legend(ax, loc="upper left", bbox_to_anchor=(1.15, 1.0))
    return fig


def votes_needed(needed: dict, cast: int) -> Figure:
    """How many votes tell a win rate from a coin: `needed` is win rate to votes, `cast` the votes one has."""
    fig, (ax,) = figure(1, 3.0)
    ax.plot(list(needed), list(needed.values()), color=CHOSEN, marker="o")
    for share, count in needed.items():
        ax.annotate(f"{count}", (share, count), xytext=(6, 5), textcoords="offset points", fontsize=9, color=NEUTRAL)
    ax.axhline(cast, color=REJECTED, linestyle="--", linewidth=1)
    ax.text(min(needed), cast, f"{cast} votes", color=REJECTED, fontsize=9, ha="left", va="bottom")
    ax.set(yscale="log", xlabel="true win rate", ylabel="votes needed (log scale)")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_title("Votes needed to tell a win rate from a coin (80 % power, two-sided 5 %)")
    ax.margins(x=0.08, y=0.12)
    return fig
