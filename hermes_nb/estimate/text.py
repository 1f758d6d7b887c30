"""The estimate in words and columns, for a shell."""


def text(told: dict) -> str:
    """A table of the stages of `estimate.recipe`, what the numbers rest on below it."""
    head = f"{told['recipe']} at scale {told['scale']}: {told['model']} in NF4, LoRA of rank {told['rank']}"
    lines = [f"{head}, on one {told['gpu']} ({told['tflops']:g} TFLOP/s, {told['memory_gb']:g} GB)"]
    names = ("stage", "rows", "seen", "tokens", "if padded", "PFLOP", "GB", "fits", "time")
    rows = [names, *(_row(stage) for stage in told["stages"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.append(f"speed: {told['share_of_roofline']:.0%} of the peak, {told['share_origin']}")
    for stage in told["stages"]:
        parts = ", ".join(f"{name} {gb:.1f}" for name, gb in stage["memory_gb"].items())
        reference = f", reference {stage['reference'].replace('_', ' ')}" if stage["reference"] else ""
        laid = f"{stage['layout']} rows, {stage['rows_at_once']:.3g} at once{reference}"
        lines.append(f"{stage['stage']}: {laid}; GB: {parts}")
        lines += [f"  {note}" for note in stage["notes"]]
    return "\n".join([*lines, "Without loading, held-out scores, merge and evaluation."])


def _row(stage: dict) -> tuple[str, ...]:
    return (
        stage["stage"], f"{stage['rows']:,}", f"{stage['seen']:,}", _count(stage["tokens"]),
        _count(stage["tokens_padded"]), f"{stage['flops'] / 1e15:,.1f}", f"{sum(stage['memory_gb'].values()):.1f}",
        "yes" if stage["fits"] else "NO", duration(stage["seconds"]),
    )  # fmt: skip


def _count(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens / 1e3:,.0f} k"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check_text(found: list[dict]) -> str:
    """The lines of `estimate.published`."""
    lines = []
    for one in found:
        lines.append(
            f"{one['system']} on one {one['gpu']}: {one['hours']:.1f} h estimated, about {one['published_hours']:g} h "
            f"published ({one['source']}): {one['ratio']:.2f}"
        )
        lines += [f"  off, perhaps because {one['why']}"] if one["why"] else []
    return "\n".join(lines)
