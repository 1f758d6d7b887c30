"""Thin bindings between a running notebook and the pure functions of `plots` and `views`. Lessons: all."""

from hermes_nb.widgets.exploring import explore
from hermes_nb.widgets.live import Live
from hermes_nb.widgets.showing import (
    Panel,
    bundle,
    label,
    png,
    show,
    show_audit,
    show_box,
    show_pair,
    show_prompts,
    show_tokens,
    small,
    table,
)
from hermes_nb.widgets.voting import vote

__all__ = [
    "Live", "Panel", "bundle", "explore", "label", "png", "show", "show_audit", "show_box", "show_pair", "show_prompts",
    "show_tokens", "small", "table", "vote",
]  # fmt: skip
