"""Thin bindings between a running notebook and the pure functions of `plots` and `views`. Lessons: all."""

from hermes_nb.widgets.chat import chat
from hermes_nb.widgets.exploring import explore
from hermes_nb.widgets.heat import heat_html, token_heat
from hermes_nb.widgets.live import Live
from hermes_nb.widgets.margins import margin_explorer
from hermes_nb.widgets.pair_browser import pair_browser
from hermes_nb.widgets.playground import loss_playground
from hermes_nb.widgets.showing import (
    Panel,
    bundle,
    choice,
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
from hermes_nb.widgets.talks import speaker
from hermes_nb.widgets.token_view import token_view
from hermes_nb.widgets.voting import vote

__all__ = [
    "Live", "Panel", "bundle", "choice", "chat", "explore", "heat_html", "label", "loss_playground", "margin_explorer",
    "pair_browser", "png", "show", "show_audit", "show_box", "show_pair", "show_prompts", "show_tokens", "small",
    "speaker", "table", "token_heat", "token_view", "vote",
]  # fmt: skip
