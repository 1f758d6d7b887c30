"""TRL's DPOTrainer with steps cut by tokens, and the proofs before the first update."""

import contextlib
import math

import torch
from trl import DPOTrainer

from hermes_nb.dpo.proof import prove_start, prove_stored
from hermes_nb.packing import OUTPUTS, length
from hermes_nb.training import StepInParts

SORTING = ("aot", "aot_unpaired")
REFERENCES = ("ref_chosen_logps", "ref_rejected_logps")


def measured(rows, max_length: int) -> list[tuple[int, int]]:
    """Of tokenized pairs the tokens in a packed row and those of the longer side, cut at `max_length`."""
    columns = [map(len, rows[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    out = []
    for prompt, *sides in zip(*columns, strict=True):
        chosen, rejected = (min(side, max(0, max_length - prompt)) for side in sides)
        out.append((length(prompt, chosen, rejected), prompt + max(chosen, rejected)))
    return out


class PairTrainer(StepInParts, DPOTrainer):
    """DPOTrainer whose step is one batch of pairs in parts, equal to TRL's one batch however it is cut."""

    number_format = "float32"  # of the arithmetic, for the noise that a stored reference may show
    _lengths: list[tuple[int, int]] = []
    _stored: list = []  # of the first step's parts: stored and fresh reference log-probabilities, answers' tokens

    def lengths(self) -> list[tuple[int, int]]:
        """Of every training pair the tokens in a packed row and those of its longer side, cut where TRL cuts."""
        if len(self._lengths) != len(self.train_dataset):
            self._lengths = measured(self.train_dataset, self.args.max_length)
        return self._lengths

    def outputs(self) -> tuple[str, ...]:
        """What TRL's losses and metrics ask of the head."""
        return (*OUTPUTS, "log_sum_sq_probs") if self.use_weighting else OUTPUTS

    def sizes(self, inputs: dict) -> list[int]:
        """Tokens of each pair in a packed row."""
        sides = inputs["attention_mask"].sum(1)
        prompt = (inputs["completion_mask"] == 0).logical_and(inputs["attention_mask"] == 1).sum(1)
        chosen, rejected = sides.chunk(2)
        return (chosen + rejected - prompt.chunk(2)[0] + 1).tolist()

    def part(self, inputs: dict, rows: list[int]) -> dict:
        """These pairs alone, no wider than the longest of them."""
        pairs = len(inputs["input_ids"]) // 2
        if len(rows) == pairs:
            return inputs
        both = [*rows, *(i + pairs for i in rows)]
        width = int(inputs["attention_mask"][both].sum(1).max())
        return {
            name: t[rows] if name in REFERENCES else t[both][:, :width] if t.shape[:1] == (2 * pairs,) else t
            for name, t in inputs.items()
        }

    def share(self, inputs: dict, rows: list[int]) -> float:
        """The losses are means over pairs."""
        return len(rows) / self._over_processes(len(inputs["input_ids"]) // 2)

    def _over_processes(self, own: float) -> float:
        """Mean of a count over the processes, whose gradients will be averaged."""
        if self.accelerator.num_processes == 1:
            return own
        return self.accelerator.gather(torch.tensor([float(own)], device=self.accelerator.device)).mean().item()

    @contextlib.contextmanager
    def weighing(self, inputs: dict, rows: list[int]):
        """Let `sft`, a mean over the chosen answers' tokens, count by these tokens, where all else counts by pairs."""
        before = self.loss_weights
        if "sft" in self.loss_types:
            chosen = inputs["completion_mask"][:, 1:].sum(1).chunk(2)[0].float()
            tokens = chosen[rows].sum().item() / self._over_processes(chosen.sum().item())
            ratio = tokens / self.share(inputs, rows)
            named = zip(self.loss_types, before, strict=True)
            self.loss_weights = [w * ratio if name == "sft" else w for name, w in named]
        try:
            yield
        finally:
            self.loss_weights = before

    def metric_weights(self, batches: list[dict]) -> dict[str, list[float]]:
        """By pairs, but by tokens what TRL averages over tokens."""
        masks = [b["completion_mask"][:, 1:].sum(1).chunk(2) for b in batches]
        chosen, rejected = ([m[side].sum().item() for m in masks] for side in (0, 1))
        return {
            "": [len(m[0]) for m in masks],
            "entropy": [a + b for a, b in zip(chosen, rejected, strict=True)],
            "mean_token_accuracy": chosen, "logits/chosen": chosen, "logits/rejected": rejected,
        }  # fmt: skip

    def whole_step(self) -> str | None:
        """`aot` sorts over all pairs of a step."""
        found = [name for name in self.loss_types if name in SORTING]
        return f"the loss {found[0]} sorts over all its pairs" if found else None

    def training_step(self, model, inputs, num_items_in_batch=None):
        """A step in parts; after the first, and before its update, stored references are proved on all its pairs."""
        self._stored = []
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._stored:
            stored, fresh, tokens = (torch.cat(column).cpu() for column in zip(*self._stored, strict=True))
            prove_stored(stored, fresh, tokens, self.number_format)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss; on the first step with the proof of the reference."""
        if self.state.global_step or not model.training or not torch.is_grad_enabled():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.precompute_ref_logps:
            fresh = self.compute_ref_log_probs(model, inputs)
            stored = torch.cat([inputs[name] for name in REFERENCES])
            self._stored.append((stored, torch.cat(fresh), inputs["completion_mask"].sum(1)))
            # under one cut policy and reference agree exactly, so the first step takes the fresh ones
            inputs = {**inputs, **dict(zip(REFERENCES, fresh, strict=True))}
        out = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logged = self._metrics["train"]
        rewards = {n: logged[f"rewards/{n}"][-1] for n in ("chosen", "rejected", "margins")}
        alone = self.loss_types == ["sigmoid"] and not self.aux_loss_enabled
        loss = (out[0] if return_outputs else out).item()
        if math.isfinite(loss):  # else the step names the row or the tensor
            prove_start(loss, rewards, self.loss_weights[0] if alone else None)
        return out

    def row_name(self, batch: dict) -> str:
        """The number of a pair in the training rows, and its source where it is known."""
        lengths = batch["attention_mask"].sum(1).tolist()
        sides = [ids[:n] for ids, n in zip(batch["input_ids"].tolist(), lengths, strict=True)]
        for i, row in enumerate(self.train_dataset):
            whole = [row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")]
            if [ids[: self.args.max_length] for ids in whole] == sides:
                return f"row {i} of the training pairs{self.from_where(row)}"
        return super().row_name(batch)
