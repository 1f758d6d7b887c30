"""Log-probabilities of answers under a model, summed over the answer's tokens, stop token included; and those kept.

DPO's reward is `beta * (logp_policy - logp_reference)` with exactly these sums (https://arxiv.org/abs/2305.18290,
Eq. 7). Lesson: 03_dpo.
"""

from hermes_nb.reference.scores import (
    batches,
    conversation_losses,
    pair_logps,
    pair_token_logps,
    sums,
    token_logps,
)  # fmt: skip
from hermes_nb.reference.stored import Store, digest, key_of, row_key

__all__ = [
    "Store", "batches", "conversation_losses", "digest", "key_of", "pair_logps", "pair_token_logps", "row_key", "sums",
    "token_logps",
]  # fmt: skip
