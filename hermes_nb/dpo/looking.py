"""How held-out pairs move while a model trains: scored before the first step and at a few later ones. Lesson: 03_dpo.

The same rows and the same arithmetic each time, so that a difference is the training's. The policy at step 0 is the
reference, and reward = beta * (logp - logp at step 0) needs no second model.
"""

import time

import numpy as np
from transformers import TrainerCallback

from hermes_nb import reference, templates
from hermes_nb.recipes import Dpo
from hermes_nb.training import Recorder
from hermes_nb.training.watching import say


def schedule(steps: int, looks: int) -> list[int]:
    """The steps to look at, as even as they go, the last step among them."""
    return sorted({max(1, round(steps * k / looks)) for k in range(1, looks + 1)}) if looks else []


class Looker(TrainerCallback):
    """Scores held-out pairs at step 0 and at the steps of `schedule`, into the run's history: `history.looks`."""

    def __init__(self, rows, tokenizer, stage: Dpo, recorder: Recorder):
        self.rows = rows.select(range(min(stage.looked_pairs, len(rows))))
        self.tokenizer, self.stage, self.recorder = tokenizer, stage, recorder
        self.steps, self.last = [], None  # the steps to look at, None for never; step and tokens of the newest look

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Before the first step; a run that goes on has done so already."""
        self.steps = schedule(state.max_steps, self.stage.looks)
        if state.global_step == 0:
            self._look(model, 0, self._pairs(), whole=True)
        elif len(self.recorder.looked.get(0, [])) != len(self.rows):
            self.steps = None
            say("note: what this run saw of held-out pairs before its first step is lost; it goes on without looking.")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """At the steps of the schedule, before the state is saved."""
        if self.steps and state.global_step in self.steps:
            self._look(model, state.global_step, [], whole=state.global_step == state.max_steps)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """A run that was stopped early is seen as it ended, token by token."""
        if self.steps is not None and state.global_step not in self.recorder.looked:
            self._look(model, state.global_step, [], whole=True)
        elif self.last and self.last[0] == state.global_step < state.max_steps:
            self.recorder.write([{"step": state.global_step, "pair": n} | t for n, t in enumerate(self.last[1])])

    def _pairs(self) -> list[dict]:
        """What the history needs to know of the pairs themselves; beta and loss first."""
        lines = [{"beta": self.stage.beta, "loss": list(self.stage.loss)}]
        for number, row in enumerate(self.rows):
            _, *sides = templates.pair_ids(self.tokenizer, row)
            known = {name: row.get(name) for name in ("prompt", "chosen", "rejected", "kind", "source", "row")}
            pieces = [[templates.piece(self.tokenizer, i) for i in ids] for ids in sides]
            stops = [ids[-1] == self.tokenizer.eos_token_id for ids in sides]
            lines.append({"pair": number, **known, "pieces": pieces, "stops": stops})
        return lines

    def _look(self, model, step: int, lines: list[dict], whole: bool) -> None:
        """Score the pairs; where `whole`, keep the log-probability of every token."""
        begun = time.perf_counter()
        scored = reference.pair_token_logps(model, self.tokenizer, self.rows)
        sums = [[round(side.sum().item(), 4) for side in pair] for pair in scored]
        tokens = [{"tokens": [[round(v, 4) for v in side.tolist()] for side in pair]} for pair in scored]
        for number, logps in enumerate(sums):
            lines.append({"step": step, "pair": number, "logps": logps} | (tokens[number] if whole else {}))
        self.last = (step, tokens)
        metrics = self._metrics(np.subtract(sums, self.recorder.looked.get(0, sums)), step)
        seconds = time.perf_counter() - begun
        to_come = len([s for s in self.steps if s > step])
        for name, value in (("seconds", round(seconds, 2)), ("to_come", to_come)):
            metrics.append({"step": step, "split": "looks", "metric": name, "value": value})
        self.recorder.look(step, metrics, lines, seconds)

    def _metrics(self, moved: np.ndarray, step: int) -> list[dict]:
        """Tidy rows: mean rewards and margin, the margin's 10th and 90th percentile, the share above 0."""
        chosen, rejected = self.stage.beta * moved.T
        margin = chosen - rejected
        values = {
            "reward_chosen": chosen.mean(), "reward_rejected": rejected.mean(), "margin": margin.mean(),
            "margin_low": np.quantile(margin, 0.1), "margin_high": np.quantile(margin, 0.9),
        }  # fmt: skip
        if step:  # before the first one all are ties
            values["accuracy"] = (margin > 0).mean()
        return [{"step": step, "split": "looks", "metric": k, "value": round(float(v), 6)} for k, v in values.items()]
