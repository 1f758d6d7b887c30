"""Pairs laid in one row: the prompt once, each answer seeing its prompt and itself only, nothing padded.

TRL pads chosen and rejected to one length and computes the prompt twice. Here a batch of pairs becomes one row
`prompt, chosen, rejected, prompt, chosen, ...` with attention that keeps them apart and positions that go on from the
prompt: every token sees what it would see alone, so the log-probabilities are the same. The prompt computed once is
prefix sharing, https://arxiv.org/abs/2410.20305. Lesson: 03_dpo.
"""

from hermes_nb.packing.attention import KINDS, attend, block_mask, mask
from hermes_nb.packing.install import OUTPUTS, install, kinds, learns_prompts, uninstall, why_not
from hermes_nb.packing.proof import differs
from hermes_nb.packing.rows import Packed, length, pack, pack_rows, unpack
from hermes_nb.packing.serving import serve

__all__ = [
    "KINDS", "OUTPUTS", "Packed", "attend", "block_mask", "differs", "install", "kinds", "learns_prompts", "length",
    "mask", "pack", "pack_rows", "serve", "uninstall", "unpack", "why_not",
]  # fmt: skip
