"""One optimizer step is one batch of the recipe's rows, computed in parts that fit a budget of tokens.

TRL's own way to smaller parts, gradient accumulation, averages the parts' means: losses that are a mean over tokens,
and the logged metrics, then depend on the cut. Here every part is weighted by its share, so a step is the same however
it is cut, and gradients are exchanged between processes once.
"""

import sys
from contextlib import ExitStack, contextmanager, nullcontext

import torch

from hermes_nb.errors import ResourceProblem, TrainingProblem
from hermes_nb.training.budget import Budget
from hermes_nb.training.watching import first_bad, gradients, say, weights


def cut(sizes: list[int], tokens: int, rows: int = 0) -> list[list[int]]:
    """Numbers of consecutive rows in parts of at most `tokens` tokens (one row at the least) and, if set, `rows` rows.

    `sizes` are tokens a row.
    """
    parts, held = [], 0
    for i, size in enumerate(sizes):
        if not parts or held + size > tokens or (rows and len(parts[-1]) == rows):
            parts.append([])
            held = 0
        parts[-1].append(i)
        held += size
    return parts


def into(parts: list[list[int]], count: int) -> list[list[int]]:
    """The same rows in `count` parts, the longest halved until there are as many (or one row each)."""
    parts = [list(p) for p in parts]
    while len(parts) < count and max(map(len, parts)) > 1:
        k = max(range(len(parts)), key=lambda i: len(parts[i]))
        half = len(parts[k]) // 2
        parts[k : k + 1] = [parts[k][:half], parts[k][half:]]
    return parts


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory is full; torch has a type for it on GPUs only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class StepInParts:
    """Mixin before a TRL trainer; subclasses say how large rows are, what a part of a batch is and what it weighs."""

    budget: Budget = Budget(sys.maxsize, "a whole step")
    rows_at_once: int = 0  # rows a part, where a padded path bounds it; 0: no bound
    pairs: bool = True  # whether a batch holds chosen sides first and then rejected ones

    def lengths(self) -> list[tuple[int, int]]:
        """Of every training row the tokens that it takes in a packed row, and those of its longest side."""
        raise NotImplementedError

    def outputs(self) -> tuple[str, ...]:
        """TRL's names of what the head must compute."""
        raise NotImplementedError

    def items(self, inputs: dict, given):
        """Trained tokens of a step, where the loss is a mean over them."""
        return given

    def sizes(self, inputs: dict) -> list[int]:
        """Tokens that each row of a batch takes."""
        raise NotImplementedError

    def part(self, inputs: dict, rows: list[int]) -> dict:
        """The batch of these rows alone."""
        raise NotImplementedError

    def share(self, inputs: dict, rows: list[int]) -> float:
        """What the loss of a part counts in that of the step."""
        raise NotImplementedError

    def metric_weights(self, batches: list[dict]) -> dict[str, list[float]]:
        """Weights of the parts for each logged metric; `""` is for those that are not named."""
        raise NotImplementedError

    def weighing(self, inputs: dict, rows: list[int]):
        """Context in which the loss of a part is computed."""
        return nullcontext()

    def whole_step(self) -> str | None:
        """Why a step may not be cut, in words; None where it may."""
        return None

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Compute a step in parts; where memory runs out the budget is halved and the step begins anew."""
        model.train()
        if hasattr(self.optimizer, "train"):  # schedule-free optimizers have two modes
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        items = self.items(inputs, num_items_in_batch)
        loss = None
        while loss is None:
            loss = self._attempt(model, inputs, items)
        # a gradient that is not finite is looked for before clipping spreads it; fp16's scaler skips such a step
        if self.accelerator.scaler is None and first_bad(gradients(model)):
            raise TrainingProblem(self._blame_gradient(model, inputs, items))
        return loss

    def prepared(self, rows: list[dict]) -> dict:
        """The batch of tokenized rows, on the device."""
        return self._prepare_inputs(self.data_collator(rows))

    @contextmanager
    def unlogged(self):
        """Leave metrics, token count, mode and gradients as they are, whatever is computed inside."""
        logged, counted = {k: list(v) for k, v in self._metrics["train"].items()}, self._total_train_tokens
        was = self.model.training
        try:
            yield
        finally:
            self.model.zero_grad()
            self.model.train(was)
            self._metrics["train"].clear()
            self._metrics["train"].update(logged)
            self._total_train_tokens = counted

    def _attempt(self, model, inputs, items):
        marks = {name: len(values) for name, values in self._metrics["train"].items()}
        tokens = self._total_train_tokens
        sizes = self.sizes(inputs)
        try:
            with self.maybe_activation_offload_context:
                return self._in_parts(model, inputs, self._parts(sizes), items, marks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        model.zero_grad()
        for name, values in self._metrics["train"].items():
            del values[marks.get(name, 0) :]
        self._total_train_tokens = tokens
        self.halve(sizes)
        return None

    def halve(self, sizes: list[int]) -> None:
        """Halve the budget after memory ran out on rows of these sizes. ResourceProblem where that cannot help."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        why = self.whole_step()
        if why or max(sizes) >= min(self.budget.tokens, sum(sizes)) or len(sizes) == 1:
            what = f"a step cannot be cut, because {why}" if why else f"one row of {max(sizes)} tokens does not fit"
            raise ResourceProblem(f"out of memory, and {what}; lower max_length, or take a smaller model.")
        self.budget = self.budget.halved(sum(sizes))
        say(f"note: out of memory; from here on at most {self.budget.tokens} tokens are computed at once.")
        self.keep_budget(self.budget)

    def keep_budget(self, budget: Budget) -> None:
        """Called when the budget has changed."""

    def _parts(self, sizes: list[int]) -> list[list[int]]:
        if self.whole_step():
            return [list(range(len(sizes)))]
        parts = cut(sizes, self.budget.tokens, self.rows_at_once)
        if self.accelerator.num_processes > 1:  # what is gathered for the metrics is gathered once a part
            most = self.accelerator.gather(torch.tensor([len(parts)], device=self.accelerator.device)).max()
            parts = into(parts, int(most))
        return parts

    def _in_parts(self, model, inputs, parts, items, marks):
        total, batches = 0.0, [self.part(inputs, rows) for rows in parts]
        for k, (rows, batch) in enumerate(zip(parts, batches, strict=True)):
            with ExitStack() as stack:
                if k < len(parts) - 1:
                    stack.enter_context(self.accelerator.no_sync(model))
                with self.compute_loss_context_manager(), self.weighing(inputs, rows):
                    loss = self.compute_loss(model, dict(batch), num_items_in_batch=items)
                loss = loss * self.share(inputs, rows)
                if not torch.isfinite(loss):
                    raise TrainingProblem(self._blame(model, inputs, rows, items))
                self.accelerator.backward(loss)
            total = total + loss.detach()
        if len(parts) > 1:
            self._merge(marks, self.metric_weights(batches))
        return total

    def _merge(self, marks: dict, weigh: dict[str, list[float]]) -> None:
        """Make one entry of those that the parts have logged, weighted."""
        for name, values in self._metrics["train"].items():
            begin = marks.get(name, 0)
            own = weigh.get(name, weigh[""])
            if len(values) - begin == len(own):
                mean = sum(v * w for v, w in zip(values[begin:], own, strict=True)) / max(sum(own), 1e-12)
                values[begin:] = [mean]

    def _blame_gradient(self, model, inputs, items) -> str:
        """Which tensor and row make a gradient that is not finite, in words."""
        step = f"{self._name}, step {self.state.global_step + 1}: the gradient of {first_bad(gradients(model))}"
        for i in range(len(self.sizes(inputs))):
            with self.unlogged():
                model.train()
                self._in_parts(model, inputs, [[i]], items, {})
                bad = first_bad(gradients(model))
            if bad:
                row = self.row_name(self.part(inputs, [i]))
                return f"{step} is not finite; the first bad row is {row}. Lower the learning rate, or audit the rows."
        return f"{step} is not finite, though that of no row alone is. Lower the learning rate."

    @torch.no_grad()
    def _blame(self, model, inputs, rows: list[int], items) -> str:
        """Which tensor or row makes a loss that is not finite, in words."""
        step = f"{self._name}, step {self.state.global_step + 1}: the loss is not finite"
        bad = first_bad(weights(model))
        if bad:
            return f"{step}; the first bad tensor is {bad}. Train on from an adapter whose numbers are whole."
        for i in rows:
            with self.compute_loss_context_manager(), self.weighing(inputs, [i]):
                loss = self.compute_loss(model, self.part(inputs, [i]), num_items_in_batch=items)
            if not torch.isfinite(loss):
                return f"{step}; the first bad row is {self.row_name(self.part(inputs, [i]))}. Audit the rows."
        return f"{step}, of {len(rows)} rows together, though of none alone. Lower the learning rate."

    def from_where(self, row: dict) -> str:
        """Source and row of its file, where a training row tells them."""
        return f" ({row['source']}, row {row['row']})" if "source" in row and "row" in row else ""

    def row_name(self, batch: dict) -> str:
        """Where a row of one comes from, in words."""
        text = self.processing_class.decode(batch["input_ids"][0].tolist())
        return f"the one that begins {text[:80]!r}"
