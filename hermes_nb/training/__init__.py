"""What SFT and DPO share: trainer arguments, fp32 adapters, steps in parts, progress, checkpoints, watch for NaN."""

from hermes_nb.training.arguments import arguments, digest, nothing_lost, total_steps
from hermes_nb.training.budget import Budget, plan
from hermes_nb.training.engine import Engine
from hermes_nb.training.fitting import Fitted, fit, newest, sparing
from hermes_nb.training.parts import StepInParts, cut, into, is_out_of_memory
from hermes_nb.training.recorder import SKIPS_IN_A_ROW, Recorder, Watch
from hermes_nb.training.staging import opened, staged
from hermes_nb.training.tracking import tracked, tracking
from hermes_nb.training.watching import Displacement, first_bad

__all__ = [
    "SKIPS_IN_A_ROW", "Budget", "Displacement", "Engine", "Fitted", "Recorder", "StepInParts", "Watch", "arguments",
    "cut", "digest", "first_bad", "fit", "into", "is_out_of_memory", "newest", "nothing_lost", "opened", "plan",
    "sparing", "staged", "total_steps", "tracked", "tracking",
]  # fmt: skip
