"""A run as data: one YAML per published system, three scales, strict keys.

A recipe is read from `published/NAME.yaml` (or a path), the block of its scale is laid over it, then the overrides,
and the result becomes frozen dataclasses. Scales change sizes, never the path through the code. Lesson: 00_tour.
"""

from hermes_nb.recipes.loading import load, names, read
from hermes_nb.recipes.shape import Dpo, Evaluate, Lora, Merge, Model, Onto, Recipe, SavedDtype, Sft, Source, Stage

__all__ = [
    "Dpo", "Evaluate", "Lora", "Merge", "Model", "Onto", "Recipe", "SavedDtype", "Sft", "Source", "Stage",
    "load", "names", "read",
]  # fmt: skip
