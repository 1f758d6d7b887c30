"""Progress, history and sealed checkpoints of a run, and the stop when its numbers are no numbers."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback

from hermes_nb import history, runs
from hermes_nb.errors import TrainingProblem
from hermes_nb.runtime import machine, peak_gb
from hermes_nb.training.stopping import Stop
from hermes_nb.training.watching import Displacement, first_bad, say, weights

SKIPS_IN_A_ROW = 16  # from 65536 the scale may halve that often before it reaches 1

# called with the tidy rows so far, the step and the number of steps; True ends the run after this step
Watch = Callable[[list[dict], int, int], bool | None]


class Recorder(TrainerCallback):
    """Writes history.jsonl, shows progress, seals checkpoints, and stops a run whose numbers are not finite."""

    def __init__(self, work: Path, name: str, watch: Watch | None = None):
        self.rows, self.watch = [], watch
        self.file = open(work / "history.jsonl", "a+", encoding="utf-8")  # noqa: SIM115 closed in `close`
        self.name, self.bar, self.begun = name, None, time.perf_counter()
        self.scaled, self.skipped = machine().dtype == "float16", 0
        self.passed, self.displacement, self.notes = 0.0, Displacement(), []
        self.stop, self.aside = Stop(), 0.0  # seconds of this process that were no training
        self.looked = {}  # step -> summed log-probabilities of the held-out pairs looked at then

    def go_on(self, step: int) -> None:
        """Keep what was logged up to `step` of a run that was interrupted, and write on behind it."""
        lines, path = [], Path(self.file.name)
        for line in filter(None, path.read_text(encoding="utf-8", errors="replace").split("\n")):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # a kill cuts the last line
                break
            if row.get("step", 0) <= step:
                lines.append(row)
        kept = self.rows = [row for row in lines if "metric" in row]
        for row in lines:
            if "logps" in row:
                self.looked.setdefault(row["step"], []).append(row["logps"])
        self.passed = max((r["value"] for r in kept if r["metric"] == "seconds"), default=0.0)
        self.file.close()
        runs.write_text(path, _text(lines))  # the old file or the new one: with the pairs in it there is much to lose
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 closed in `close`
        sides = {"reward_chosen": "rewards/chosen", "margin": "rewards/margins"}
        for at in range(1, step + 1):
            logs = {sides[r["metric"]]: r["value"] for r in kept if r["step"] == at and r["metric"] in sides}
            self.notes += [line for line in [self.displacement.line(logs)] if line]

    def write(self, lines: list[dict]) -> None:
        """Add lines to the history on disk, at once: the next may be minutes away."""
        self.file.write(_text(lines))
        self.file.flush()

    def look(self, step: int, metrics: list[dict], lines: list[dict], seconds: float) -> None:
        """Keep how held-out pairs were seen at `step`: tidy rows of `metrics`, and `lines` of the history.

        The `seconds` it took are no training.
        """
        self.looked[step] = [line["logps"] for line in lines if "logps" in line]
        self.rows += metrics
        self.aside += seconds
        self.write([*lines, *metrics])

    def tokens(self) -> int:
        """Tokens trained on so far; TRL's own count begins anew with every process."""
        return int(max((r["value"] for r in self.rows if r["metric"] == "tokens"), default=0))

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()
        if self.watch is None:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", file=sys.stderr,
                dynamic_ncols=True,
            )  # fmt: skip

    def on_log(self, args, state, control, logs=None, **kwargs):
        new = history.entries(logs, state.global_step)
        if not new:
            return
        if "loss" in logs:
            seconds = self.passed + time.perf_counter() - self.begun - self.aside
            own = {"seconds": round(seconds, 2), "peak_gb": round(peak_gb(), 2)}
            at = {"step": state.global_step, "split": "train"}
            new += [{**at, "metric": name, "value": value} for name, value in own.items()]
        self.rows += new
        self.write(new)
        self._check(logs, state.global_step)
        self._show(logs, state)
        line = self.displacement.line(logs)
        if line is not None:
            self.notes.append(line)
            say(line)
        if "loss" in logs and self.stop.apply(state, control):
            say(f"{self.name} stops after step {state.global_step} of {state.max_steps}; the same call again goes on.")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Look at the weights before they are saved."""
        bad = first_bad(weights(model))
        if bad:
            raise TrainingProblem(
                f"{self.name}, step {state.global_step}: {bad} is not finite after the update; the run was stopped "
                f"before it was saved. Lower the learning rate."
            )

    def _check(self, logs: dict, step: int) -> None:
        bad = [k for k in ("loss", "grad_norm") if not math.isfinite(logs.get(k, 0.0))]
        # under fp16 the gradient scaler begins too high by design: it skips such a step and halves its scale
        self.skipped = self.skipped + 1 if bad == ["grad_norm"] else 0
        if bad and not (self.scaled and bad == ["grad_norm"] and self.skipped <= SKIPS_IN_A_ROW):
            raise TrainingProblem(
                f"{self.name}, step {step}: {bad[0]} is {logs[bad[0]]}; the run was stopped before it was saved. "
                f"Lower the learning rate, or audit the rows."
            )

    def _show(self, logs: dict, state) -> None:
        if self.watch is not None:
            if self.watch(self.rows, state.global_step, state.max_steps):
                self.stop.asked = True
        elif self.bar is not None and "loss" in logs:
            shown = {"loss": f"{logs['loss']:.3f}"}
            if "rewards/margins" in logs:
                shown["margin"] = f"{logs['rewards/margins']:+.3f}"
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_save(self, args, state, control, **kwargs):
        runs.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self):
        """Close the file and the bar, and tell the watch, where it listens, that the run is over, however it ended."""
        self.file.close()
        if self.bar is not None:
            self.bar.close()
        _over(self.watch, self.rows)


def _text(lines: list[dict]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _over(watch: Watch | None, rows: list[dict]) -> None:
    """Call `watch.over(rows)` where it has that: a dashboard becomes a picture."""
    if hasattr(watch, "over"):
        watch.over(rows)


def replay(run: runs.Run, watch: Watch | None) -> runs.Run:
    """Show the history of a finished stage to `watch`, once, so that Run All draws its curve again; returns the run."""
    if watch is not None:
        rows = history.load(run.path).drop(columns="run").to_dict("records")
        watch(rows, run.metrics["steps"], run.metrics["steps"])
        _over(watch, rows)
    return run
