"""Preference-tune a language model on one GPU: raw rows, pairs, SFT, DPO, merge, evidence.

`import hermes_nb` loads neither torch nor transformers; each stage is a module of its own
(`hermes_nb.formats`, `.sft`, `.dpo`, `.merge`, `.evaluate`) and is imported where it is used.
"""

import importlib

__version__ = "0.1.0"

MODULES = (
    "errors", "runtime", "roofline", "recipes", "templates", "models", "formats", "runs", "history", "packing",
    "training", "reference", "audit", "generate", "sft", "dpo", "evaluate", "plots", "merge", "judges", "estimate",
    "views",
    "widgets", "pipeline", "formatting", "bench", "lessons", "exercises", "publish", "course", "stamp", "cli",
)  # fmt: skip


def __getattr__(name):
    """Import a module of the package at its first use, so that `hermes_nb.dpo` works after `import hermes_nb`."""
    if name in MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *MODULES])
