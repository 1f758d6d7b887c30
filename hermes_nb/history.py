"""Metrics of a run as a tidy frame: run, step, split, metric, value.

Names are the course's: `reward_chosen`, `reward_rejected`, `margin`, `accuracy`, `logp_chosen`, `logp_rejected`, with
`reward = beta * (logp_policy - logp_reference)`, log-probabilities summed over the answer's tokens. Lesson: 03_dpo.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from hermes_nb.errors import DataProblem, FileProblem

HISTORY, STATE = "history.jsonl", "trainer_state.json"
LOOKS = ["run", "step", "pair", "logp_chosen", "logp_rejected", "reward_chosen", "reward_rejected", "margin"]

# what TRL and transformers call them -> what we call them
NAMES = {
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "logits/chosen": "logit_chosen",
    "logits/rejected": "logit_rejected",
    "num_tokens": "tokens",
    "mean_token_accuracy": "token_accuracy",
}
# of a trainer's log, what is not a metric of the model
NOISE = (
    "runtime", "samples_per_second", "steps_per_second", "total_flos", "train_loss", "epoch", "step",
    "model_preparation_time",
)  # fmt: skip


def entries(log: dict, step: int) -> list[dict]:
    """One trainer log as tidy rows `{step, split, metric, value}`; names mapped, bookkeeping left out."""
    out = []
    for key, value in log.items():
        split = "held_out" if key.startswith("eval_") else "train"
        name = key.removeprefix("eval_").removeprefix("train_")
        if name not in NOISE and key not in NOISE and isinstance(value, (int, float)):
            out.append({"step": step, "split": split, "metric": NAMES.get(name, name), "value": float(value)})
    return out


def frame(rows: list[dict], run: str = ""):
    """Tidy rows as a DataFrame with columns run, step, split, metric, value."""
    import pandas as pd

    return pd.DataFrame([{"run": run, **r} for r in rows], columns=["run", "step", "split", "metric", "value"])


def load(run: str | Path):
    """Read the history of a run as `DataFrame[run, step, split, metric, value]`.

    `run` is a stage folder (also while it trains), a `history.jsonl`, or a folder or file of transformers' and TRL's
    `trainer_state.json`. Raises FileProblem when there is none or a line is damaged.
    """
    file = _file(run)
    if file.name == STATE:
        logs = _json(file.read_text(encoding="utf-8"), file)["log_history"]
        return frame([row for log in logs for row in entries(log, log["step"])], run=_name(file))
    return frame([line for line in _lines(file) if "metric" in line], run=_name(file))


def series(table, metric: str, split: str = "train"):
    """One metric of a tidy frame as a Series over steps."""
    chosen = table[(table.metric == metric) & (table.split == split)]
    return chosen.set_index("step")["value"]


def _file(run: str | Path) -> Path:
    """The file that holds a run's history: the newest checkpoint's where there are only such."""
    path = Path(run).absolute()
    working = path.with_name(f".{path.name}.work") / HISTORY  # of a stage that is training now
    for file in (path, path / HISTORY, working, path / STATE):
        if file.is_file():
            return file
    states = sorted(path.glob(f"checkpoint-*/{STATE}"), key=lambda f: int(f.parent.name.split("-")[1]))
    if states:
        return states[-1]
    raise FileProblem(f"{path}: no {HISTORY} here; give a stage folder such as runs/NAME/dpo.")


def _name(file: Path) -> str:
    """What a run is called: its folder, or its file where that has a name of its own."""
    if file.name not in (HISTORY, STATE):
        return file.stem.removeprefix("history_")
    return file.parent.name.removeprefix(".").removesuffix(".work")  # the same while it trains


def _json(text: str, file: Path):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileProblem(f"{file}: damaged ({error.msg}); run the stage again.") from error


def _lines(file: Path) -> list[dict]:
    """The lines of a history; the last one may be cut while a run writes it."""
    *lines, last = file.read_text(encoding="utf-8", errors="replace").split("\n")  # other line breaks may be in a text
    if not file.parent.name.endswith(".work"):
        lines.append(last)
    return [_json(line, file) for line in lines if line.strip()]


@dataclass(frozen=True)
class Looks:
    """Held-out pairs as a run saw them at several steps: texts, log-probabilities, rewards.

    `pairs`: one dict a pair: `prompt`, `chosen`, `rejected` (lists of turns), `kind`, `source`, `row`, `pieces`, the
    texts of the tokens of chosen and of rejected, and `stops`, whether the last one of each is the stop token.
    `table`: DataFrame[run, step, pair, logp_chosen, logp_rejected, reward_chosen, reward_rejected, margin], one row a
    pair and step, rewards in nats times beta, counted from step 0.
    `tokens`: (step, pair) to the log-probabilities (nats) of the tokens of chosen and of rejected.
    """

    run: str
    beta: float
    pairs: list[dict]
    table: object
    tokens: dict

    @property
    def steps(self) -> list[int]:
        """The steps at which was looked, 0 first."""
        return sorted(set(self.table.step.tolist()))

    def margins(self, step: int) -> list[float]:
        """Margin of every pair at `step`."""
        return self.table[self.table.step == step].sort_values("pair")["margin"].tolist()

    def earned(self, pair: int, step: int | None = None) -> tuple[list[float], list[float]]:
        """beta * (logp at `step` - logp at step 0) of every token of chosen and rejected; `step` None: the last one.

        Raises DataProblem where no tokens were kept.
        """
        at = max((s for s, p in self.tokens if p == pair and s), default=None) if step is None else step
        if (at, pair) not in self.tokens or (0, pair) not in self.tokens:
            kept = sorted({s for s, p in self.tokens if p == pair})
            raise DataProblem(f"run {self.run!r}, pair {pair}, step {at}: no tokens were kept; there are steps {kept}.")
        sides = zip(self.tokens[at, pair], self.tokens[0, pair], strict=True)
        return tuple([self.beta * (now - then) for now, then in zip(*side, strict=True)] for side in sides)


def looks(run: str | Path) -> Looks:
    """Read what a DPO run saw of its held-out pairs (`dpo.looks` in the recipe), also while it trains: `Looks`.

    Raises FileProblem when the run has no history or did not look.
    """
    import pandas as pd

    file = _file(run)
    lines = [] if file.name == STATE else _lines(file)
    beta = next((line["beta"] for line in lines if "beta" in line), None)
    pairs = [line for line in lines if "prompt" in line]
    seen = [line for line in lines if "logps" in line]
    if beta is None or not pairs or not seen:
        raise FileProblem(
            f"{file}: this run did not look at held-out pairs; set dpo.looks and train into a new folder."
        )
    start = {line["pair"]: line["logps"] for line in seen if line["step"] == 0}
    rows, tokens = [], {(line["step"], line["pair"]): tuple(line["tokens"]) for line in lines if "tokens" in line}
    for line in seen:
        rewards = [beta * (now - then) for now, then in zip(line["logps"], start[line["pair"]], strict=True)]
        rows.append((_name(file), line["step"], line["pair"], *line["logps"], *rewards, rewards[0] - rewards[1]))
    return Looks(_name(file), beta, pairs, pd.DataFrame(rows, columns=LOOKS), tokens)
