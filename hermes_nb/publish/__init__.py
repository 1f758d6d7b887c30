"""Before a model leaves this machine: its card from the run, the list of files, the scan, and the way to the hub.

Only `push` without `dry_run` touches a network. Lesson: 04_merge.
"""

from hermes_nb.publish.card import card
from hermes_nb.publish.elsewhere import (
    control_text,
    gguf_command,
    lm_studio_preset,
    openai_request,
    preset_text,
    same_ids,
    server_commands,
)
from hermes_nb.publish.layout import gguf_problems, layout_problems
from hermes_nb.publish.push import Pushed, push, text
from hermes_nb.publish.scan import findings, plan
from hermes_nb.publish.staging import exported

__all__ = [
    "Pushed",
    "card",
    "control_text",
    "exported",
    "findings",
    "gguf_command",
    "gguf_problems",
    "layout_problems",
    "lm_studio_preset",
    "openai_request",
    "plan",
    "preset_text",
    "push",
    "same_ids",
    "server_commands",
    "text",
]
