"""Four bits, small adapters and what SFT learns: NF4, memory, LoRA's scale, losses, shares. Lesson: 02_qlora_sft."""

import math

from matplotlib.figure import Figure

from hermes_nb import history
from hermes_nb.plots.base import CHOSEN, GREY, KINDS, MARGIN, NEUTRAL, REJECTED, figure, legend

LINES = ("-", "--", ":", "-.")
STYLES = (("card", CHOSEN, None), ("padded", REJECTED, "//"), ("neither", "#B0B0B0", None))
PARTS = {"weights": GREY, "adapter": CHOSEN, "gradient": REJECTED, "optimizer": MARGIN, "activations": "#CC79A7"}
CARDS = {16: "T4: 16 GB", 40: "A100: 40 GB"}  # memory of the GPU as sold


def nf4_block(weights, restored, levels) -> Figure:
    """One block of weights on its 16 levels, and the levels beside 16 evenly spaced ones.

    `weights` and `restored` are rows of n numbers, `levels` the 16 NF4 levels from -1 to 1.
    """
    exact, back, steps = (list(map(float, row)) for row in (weights, restored, levels))
    scale = max(map(abs, exact))
    fig, (ax, ruler) = figure(2, 3.6)
    for level in steps:
        ax.axhline(level * scale, color=NEUTRAL, linewidth=0.5, alpha=0.6)
    ax.vlines(range(len(exact)), exact, back, color=REJECTED, linewidth=1.5)
    ax.plot(range(len(back)), back, "_", color=REJECTED, markersize=6, label="restored: the nearest level")
    ax.plot(range(len(exact)), exact, "o", color=CHOSEN, markersize=3, label="weight")
    ax.grid(visible=False)
    ax.set(xlabel=f"place in the block of {len(exact)}", ylabel="weight", title=f"absmax of this block: {scale:.3f}")
    legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    even = [-1 + 2 * i / 15 for i in range(16)]
    for y, places, colour in ((1, steps, CHOSEN), (0, even, GREY)):
        ruler.plot(places, [y] * 16, "|", color=colour, markersize=26, markeredgewidth=2)
    ruler.hist([w / scale for w in exact], bins=25, bottom=1.35, color=CHOSEN, alpha=0.5, weights=[0.08] * len(exact))
    ruler.set_yticks([0, 1, 1.6], ["16 even\nlevels", "NF4", "weights"])
    ruler.set(ylim=(-0.5, None), xlabel="weight / absmax", title="NF4 is dense where weights are")
    ruler.grid(visible=False)
    return fig


def error_map(weights, restored, blocksize: int = 64, rows: int = 48, blocks: int = 3) -> Figure:
    """A corner of a weight matrix and the size of its rounding errors, `rows` high and `blocks` blocks wide."""
    wide = blocksize * blocks
    exact = weights[:rows, :wide].float()
    wrong = (restored[:rows, :wide].float() - exact).abs()
    limit = exact.abs().quantile(0.99).item()
    fig, axes = figure(2, 2.9)
    for ax, data, scale, low, high, name in (
        (axes[0], exact, "PuOr", -limit, limit, "weight"),
        (axes[1], wrong, "Greys", 0.0, wrong.quantile(0.99).item(), "size of the error"),
    ):
        image = ax.imshow(data.numpy(), cmap=scale, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        for k in range(1, blocks):
            ax.axvline(k * blocksize - 0.5, color="black", linewidth=0.8)
        ax.set(xlabel="column (a line between blocks)", ylabel="row", title=name)
        ax.grid(visible=False)
        bar = fig.colorbar(image, ax=ax, orientation="horizontal", aspect=40, pad=0.02)
        bar.ax.tick_params(colors=NEUTRAL, labelsize=8)
    return fig


def bits_by_block(rows: list[dict], blocksize: int = 64) -> Figure:
    """Bits a weight and relative error against the block size; `rows` from `nf4.trade_off`, `blocksize` is marked."""
    sizes = [r["blocksize"] for r in rows]
    here = next(r for r in rows if r["blocksize"] == blocksize)
    fig, axes = figure(2, 3.0)
    for key, label, colour, line in (
        ("single", "one fp32 scale a block", GREY, "--"), ("double", "double quantization", CHOSEN, "-"),
    ):  # fmt: skip
        axes[0].plot(sizes, [r[key] for r in rows], line, color=colour, marker="o", markersize=3, label=label)
        _note(axes[0], blocksize, here[key], f"{here[key]:.3f}", colour)
    axes[0].set(ylabel="bits a weight", title="Storage", ylim=(3.95, None))
    legend(axes[0])
    axes[1].plot(sizes, [100 * r["error"] for r in rows], color=REJECTED, marker="o", markersize=3)
    _note(axes[1], blocksize, 100 * here["error"], f"{here['error']:.1%}", REJECTED, (8, -14))
    axes[1].set(ylabel="relative error (%)", title="Rounding error of this matrix", ylim=(0, None))
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(s) for s in sizes])
        ax.minorticks_off()
        ax.axvline(blocksize, color=NEUTRAL, linestyle=":", linewidth=1)
        ax.set_xlabel("block size (weights that share a scale)")
    return fig


def memory_ledger(models: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Stacked bars of GB in training: model name to method to part, as `estimate.ledgers` counts; one panel a model."""
    fig, axes = figure(len(models), 3.2)
    for ax, (name, methods) in zip(axes, models.items(), strict=True):
        totals = {method: sum(parts.values()) for method, parts in methods.items()}
        limit = 1.22 * max(totals.values())
        lines = [size for size in CARDS if size < max(totals.values())]
        left = dict.fromkeys(methods, 0.0)
        for part, colour in PARTS.items():
            sizes = [parts[part] for parts in methods.values()]
            ax.barh(list(methods), sizes, left=list(left.values()), color=colour, label=part, height=0.62)
            left = {m: left[m] + size for m, size in zip(methods, sizes, strict=True)}
        for i, total in enumerate(totals.values()):
            behind = [total, *(size for size in lines if total < size < total + 0.15 * limit)]
            ax.text(max(behind) + 0.01 * limit, i, f"{total:.3g} GB", va="center", fontsize=9, color=NEUTRAL)
        for size in lines:
            ax.axvline(size, color=NEUTRAL, linestyle=":", linewidth=1)
            ax.text(size, 0.5, f" {CARDS[size]}", va="center", fontsize=8, color=NEUTRAL)
        ax.set(xlim=(0, limit), xlabel="GB", title=name)
        ax.invert_yaxis()
        ax.grid(visible=False)
    found = axes[0].get_legend_handles_labels()
    fig.legend(*found, loc="outside lower center", ncols=5, frameon=False, fontsize=9, labelcolor=NEUTRAL)
    return fig


def lora_scale(parameters_at_1: int, published: dict[str, tuple[int, int]], r: int = 8, alpha: int = 16) -> Figure:
    """What r and alpha do: trained numbers grow with r, the update's scale is alpha / r.

    `parameters_at_1` is the count for r = 1; `published` maps a name to its (r, alpha); `r` and `alpha` are marked.
    """
    ranks = [1, 2, 4, 8, 16, 32, 64]
    fig, axes = figure(2, 3.2)
    axes[0].plot(ranks, [parameters_at_1 * k / 1e6 for k in ranks], color=CHOSEN, marker="o", markersize=3)
    here = parameters_at_1 * r / 1e6
    axes[0].plot([r], [here], "o", color=REJECTED, markersize=13, fillstyle="none", markeredgewidth=2)
    _note(axes[0], r, here, f"r = {r}: {here:.2f} M", REJECTED, (12, -12))
    axes[0].set(yscale="log", ylabel="trained numbers (millions)", title="Size: r (in + out) a layer")
    rules = {f"alpha = {alpha} kept": [alpha / n for n in ranks], "alpha = r": [1] * 7, "alpha = 2r": [2] * 7}
    for k, (label, scale) in enumerate(rules.items()):
        axes[1].plot(ranks, scale, LINES[k], color=KINDS[k], label=label)
    for name, (rank, strength) in published.items():
        axes[1].plot([rank], [strength / rank], "s", color=NEUTRAL, markersize=5)
        _note(axes[1], rank, strength / rank, name, NEUTRAL, (9, 5))
    axes[1].plot([r], [alpha / r], "o", color=REJECTED, markersize=13, fillstyle="none", markeredgewidth=2)
    axes[1].set(yscale="log", ylabel="alpha / r", title=f"Strength: alpha / r = {alpha / r:g}")
    axes[1].set_yticks([0.25, 1, 2, 4, 16], ["0.25", "1", "2", "4", "16"])
    axes[1].minorticks_off()
    legend(axes[1], loc="upper right")
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(ranks, [str(k) for k in ranks])
        ax.set_xlabel("rank r")
    return fig


def held_out_loss(table, before: dict, after: dict) -> Figure:
    """SFT's training loss step by step, and the held-out loss before and after with its 95 % interval.

    `before` and `after` are means of `evaluate.mean` over held-out conversations (nats a token).
    """
    line = history.series(table, "loss")
    last = int(max(line.index))
    fig, (ax,) = figure(1, 3.0)
    ax.plot(line.index, line.values, color=CHOSEN, label="training rows")
    for step, mean in ((0, before), (last, after)):
        _whisker(ax, step, mean, REJECTED, "held-out rows (95 % interval)" if step else None)
        _note(ax, step, mean["value"], f"{mean['value']:.2f}", REJECTED)
    ax.set(xlim=(-1, 1.07 * last), ylim=(0, None), xlabel="step", ylabel="loss (nats a token)")
    ax.set_title("Loss on the answers' tokens")
    legend(ax)
    return fig


def loss_runs(experiments: dict[str, dict], title: str = "", smooth: int = 5) -> Figure:
    """Training losses of several runs, a mean over `smooth` steps, and each run's held-out loss at its end.

    `experiments` maps a label to a dict with `history` (tidy frame) and `sft_loss` (mean with interval), as
    `lessons.experiment` gives them.
    """
    fig, axes = figure(2, 3.2)
    for k, (label, run) in enumerate(experiments.items()):
        colour = KINDS[k % len(KINDS)]
        line = history.series(run["history"], "loss").rolling(smooth, min_periods=1).mean()
        axes[0].plot(line.index, line.values, LINES[k % len(LINES)], color=colour, label=label)
        _whisker(axes[1], k, run["sft_loss"], colour)
        _note(axes[1], k, run["sft_loss"]["value"], f"{run['sft_loss']['value']:.2f}", colour, (10, -3))
    axes[0].set(xlabel="step", ylabel="loss (nats a token)", title=title or "Training loss")
    legend(axes[0])
    axes[1].set_xticks(range(len(experiments)), list(experiments))
    axes[1].set(xlim=(-0.5, len(experiments) - 0.3), xlabel="run", ylabel="loss (nats a token)")
    axes[1].set_title("Held-out rows, after training (95 %)")
    return fig


def _whisker(ax, at: float, mean: dict, colour: str, label: str | None = None) -> None:
    """A point with its interval; `mean` has `value`, `low` and `high`."""
    ax.errorbar(at, mean["value"], _around(mean), fmt="o", color=colour, capsize=4, markersize=6, label=label, zorder=3)


def _around(mean: dict) -> list[list[float]]:
    """Lengths of the whisker below and above, as matplotlib wants them."""
    return [[max(0.0, mean["value"] - mean["low"])], [max(0.0, mean["high"] - mean["value"])]]


def _note(ax, x: float, y: float, text: str, colour: str, shift: tuple[int, int] = (8, 6)) -> None:
    """A text beside a point, `shift` in points."""
    ax.annotate(text, (x, y), shift, textcoords="offset points", color=colour, fontsize=10)


def moved_shares(shares: dict[str, float], rates: tuple[float, ...] = (1e-3, 1e-5)) -> Figure:
    """Share of adapter numbers that training moved, by run, and the smallest update that a bf16 number keeps.

    A bf16 number w in [2^e, 2^(e+1)) has neighbours 2^(e-7) apart, so an update under half of that, 2^(e-8), rounds
    away. AdamW's update is at most about the learning rate; `rates` are drawn.
    """
    fig, axes = figure(2, 3.0)
    colours = [REJECTED if "bf16" in label else CHOSEN for label in shares]
    axes[0].barh(list(shares), [100 * s for s in shares.values()], color=colours, height=0.6)
    for i, share in enumerate(shares.values()):
        axes[0].text(100 * share + 2, i, f"{share:.1%}", va="center", fontsize=9, color=NEUTRAL)
    axes[0].invert_yaxis()
    axes[0].set(xlim=(0, 125), xticks=range(0, 101, 25), xlabel="numbers that changed (%)", title="After training")
    sizes = [2 ** (k / 16) for k in range(-16 * 14, 1)]
    lost = [2.0 ** (math.floor(math.log2(w)) - 8) for w in sizes]
    axes[1].fill_between(sizes, 1e-8, lost, color=REJECTED, alpha=0.2, label="lost in bf16")
    axes[1].plot(sizes, lost, color=REJECTED, linewidth=1)
    for k, rate in enumerate(rates):
        axes[1].axhline(rate, color=KINDS[k], linestyle=LINES[k], label=f"learning rate {rate:g}")
    axes[1].set(xscale="log", yscale="log", ylim=(1e-7, 1e-2), xlabel="size of a weight", ylabel="size of an update")
    axes[1].set_title("bf16 loses updates under 1/256")
    legend(axes[1], loc="lower right")
    return fig


def mixture(data: dict[str, float], models: dict[str, dict]) -> Figure:
    """Shares of cards, padded and other texts: in the training `data`, and in what `models` write, one bar each.

    `data` has the shares `card` and `padded`; a model is a summary of `evaluate.summary`, its whisker is the 95 %
    interval of its share of cards.
    """
    rows = {"training rows": data} | {n: {k: s[k]["value"] for k in ("card", "padded")} for n, s in models.items()}
    fig, (ax,) = figure(1, 0.9 + 0.5 * len(rows))
    for i, row in enumerate(rows.values()):
        left = 0.0
        for name, colour, hatch in STYLES:
            share = row.get(name, max(0.0, 1 - row["card"] - row["padded"]))
            ax.barh(i, share, left=left, color=colour, hatch=hatch, edgecolor="white", label=None if i else name)
            if share > 0.06:
                box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
                ax.text(left + share / 2, i - 0.08, f"{share:.0%}", ha="center", va="center", color="#202020", bbox=box)
            left += share
    for i, summary in enumerate(models.values(), 1):
        card = summary["card"]
        ax.errorbar(card["value"], i + 0.31, xerr=_around(card), color="black", capsize=3, linewidth=1.2)
    ax.set_yticks(range(len(rows)), ["training rows", *(f"{n} (n = {s['card']['n']})" for n, s in models.items())])
    ax.axvline(data["card"], color="black", linestyle=":", linewidth=1)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="share of answers (whisker: 95 % interval of the cards)")
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.grid(visible=False)
    legend(ax, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    return fig
