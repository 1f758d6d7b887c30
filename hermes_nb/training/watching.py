"""What is watched while a model trains: numbers that are not finite, and chosen answers that grow less likely."""

import torch
from tqdm import tqdm

LESSON = "03_dpo"
LAST = 5  # steps that are averaged
FALL = 0.1  # of reward, by which the chosen side must have fallen


def say(line: str) -> None:
    """Print a line without tearing a progress bar."""
    tqdm.write(line)


def first_bad(tensors) -> str | None:
    """Name of the first tensor of `(name, tensor)` with an entry that is not finite; None when all are."""
    named = [(name, t) for name, t in tensors if t is not None]
    if not named:
        return None
    # a sum is finite where every entry is, but for overflow, and one number a tensor is cheap to look at
    sums = torch.stack([t.detach().float().abs().sum().to(named[0][1].device) for _, t in named])
    for k in (~torch.isfinite(sums)).nonzero().flatten().tolist():
        if not torch.isfinite(named[k][1]).all():
            return named[k][0]
    return None


def weights(model):
    """`(name, tensor)` of what is trained."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def gradients(model):
    """`(name, gradient)` of what is trained."""
    return [(n, p.grad) for n, p in weights(model)]


class Displacement:
    """Tells, once, when the margin grows because both answers grow less likely (https://arxiv.org/abs/2410.08847)."""

    def __init__(self):
        self.chosen, self.margin, self.told = [], [], False

    def line(self, logs: dict) -> str | None:
        """Take the metrics of a step; the note in words the first time that it is due, else None."""
        if "rewards/chosen" not in logs or "rewards/margins" not in logs:
            return None
        self.chosen.append(logs["rewards/chosen"])
        self.margin.append(logs["rewards/margins"])
        if self.told or len(self.chosen) < 2 * LAST:
            return None
        chosen, before = sum(self.chosen[-LAST:]) / LAST, sum(self.chosen[-2 * LAST : -LAST]) / LAST
        grown = sum(self.margin[-LAST:]) > sum(self.margin[-2 * LAST : -LAST])
        if chosen < -FALL and chosen < before and grown:
            self.told = True
            return (
                f"note: the margin grows, but the chosen answers grow less likely too (reward_chosen {chosen:+.2f}): "
                f"likelihood displacement; notebooks/{LESSON}.ipynb says what it means and what helps."
            )
        return None
