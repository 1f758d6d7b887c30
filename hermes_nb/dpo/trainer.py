"""TRL's DPOTrainer with steps cut by tokens, and the proofs before the first update."""

import contextlib

import torch
from trl import DPOTrainer

from hermes_nb.dpo.proof import prove_start, prove_stored
from hermes_nb.packing import OUTPUTS, length
from hermes_nb.training import StepInParts

SORTING = ("aot", "aot_unpaired")
REFERENCES = ("ref_chosen_logps", "ref_rejected_logps")


class PairTrainer(StepInParts, DPOTrainer):
    """DPOTrainer whose step is one batch of pairs in parts, equal to TRL's one batch however it is cut."""

    number_format = "float32"  # of the arithmetic, for the noise that a stored reference may show
    origin: list[dict] | None = None  # source and row of each training row

    def lengths(self) -> list[tuple[int, int]]:
        """Of every training pair the tokens in a packed row and those of its longer side, cut where TRL cuts."""
        columns = [map(len, self.train_dataset[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        out = []
        for prompt, *sides in zip(*columns, strict=True):
            chosen, rejected = (min(side, max(0, self.args.max_length - prompt)) for side in sides)
            out.append((length(prompt, chosen, rejected), prompt + max(chosen, rejected)))
        return out

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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss; on the first step with the proofs."""
        if self.state.global_step or not model.training or not torch.is_grad_enabled():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.precompute_ref_logps:
            inputs = dict(inputs)
            fresh = self.compute_ref_log_probs(model, inputs)
            self._prove_stored(inputs, fresh)
            inputs |= dict(zip(REFERENCES, fresh, strict=True))  # under one cut policy and reference agree exactly
        out = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logged = self._metrics["train"]
        rewards = {n: logged[f"rewards/{n}"][-1] for n in ("chosen", "rejected", "margins")}
        loss = out[0] if return_outputs else out
        prove_start(loss.item(), rewards, self.args.loss_type == ["sigmoid"])
        return out

    def _prove_stored(self, inputs: dict, fresh) -> None:
        tokens = inputs["completion_mask"].sum(1)
        stored = torch.cat([inputs[name] for name in REFERENCES])
        prove_stored(stored.cpu(), torch.cat(fresh).cpu(), tokens.cpu(), self.number_format)

    def row_name(self, batch: dict) -> str:
        """The number of a pair in the training rows, and its source where it is known."""
        length = int(batch["attention_mask"][0].sum())
        ids = batch["input_ids"][0, :length].tolist()
        for i, row in enumerate(self.train_dataset):
            if row["prompt_ids"] + row["chosen_ids"] == ids:
                own = self.origin[i] if self.origin else {}
                return f"row {i} of the training pairs" + (f" ({own['source']}, row {own['row']})" if own else "")
        return super().row_name(batch)
