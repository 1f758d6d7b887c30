"""Two proofs before the first update: policy and reference are the same model, and stored log-probabilities are its."""

import math

import torch

from hermes_nb.errors import TrainingProblem

TOLERANCE = 1e-6
# nats, for each square root of a token: standard deviation of a summed log-probability between two cuts of the same
# packed rows. Measured in bf16, 4-bit base, 32 answers of 3 to 900 tokens, four pairs at once and one by one: 0.0095.
# The others follow from their digits: fp16 has 3 bits more, fp32 16, where rounding of the sum itself comes first.
NOISE = {"bfloat16": 0.015, "float16": 0.002, "float32": 2e-5}
TIMES = 3.0  # a stored value may deviate, root mean square, that many times as far
ERRORS = 5.0  # and the mean of the deviations by so many standard errors


def prove_start(loss: float, rewards: dict[str, float], weight: float | None) -> None:
    """Refuse to train unless policy and reference are the same model at step 0.

    Then both rewards and the margin are 0, and the sigmoid loss is ln 2, on whatever rows. `weight` is that of the
    sigmoid loss where it stands alone; None leaves the loss unchecked. Raises TrainingProblem with the figures.
    """
    off = {name: value for name, value in rewards.items() if not abs(value) <= TOLERANCE}
    if weight is not None and not abs(loss - weight * math.log(2)) <= TOLERANCE:
        off["loss - ln 2"] = loss - weight * math.log(2)
    if off:
        figures = ", ".join(f"{name} {value:+.2e}" for name, value in off.items())
        raise TrainingProblem(
            f"step 0: policy and reference are not the same model ({figures}; each must be 0). The adapter was rounded "
            f"or the reference is another model, so every reward would be off; start from an adapter of this base."
        )


def prove_stored(stored: torch.Tensor, fresh: torch.Tensor, tokens: torch.Tensor, dtype: str) -> dict[str, float]:
    """Refuse to train unless stored reference log-probabilities are those of this reference, but for rounding.

    `stored` and `fresh` are summed log-probabilities (nats), `tokens` the lengths of the answers, all of one shape;
    `dtype` is the number format of the arithmetic. In units of what another cut of the batch changes, the deviations
    must be small (root mean square) and without bias. Returns both figures; raises TrainingProblem with them.
    """
    z = (stored.double() - fresh.double()) / (NOISE[dtype] * tokens.double().sqrt())
    spread, bias = z.square().mean().sqrt().item(), z.mean().item() * math.sqrt(z.numel())
    if not spread <= TIMES or not abs(bias) <= ERRORS:
        raise TrainingProblem(
            f"step 0: the stored reference log-probabilities are not those of this reference (they deviate by "
            f"{spread:.1f} times the rounding noise of {dtype}, bias {bias:+.1f} standard errors). Delete the store, "
            f"or set dpo.reference to on_the_fly."
        )
    return {"spread": spread, "bias": bias}
