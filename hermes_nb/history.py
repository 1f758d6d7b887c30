"""Metrics of a run as a tidy frame: run, step, split, metric, value.

Names are the course's: `reward_chosen`, `reward_rejected`, `margin`, `accuracy`, `logp_chosen`, `logp_rejected`, with
`reward = beta * (logp_policy - logp_reference)`, log-probabilities summed over the answer's tokens. Lesson: 03_dpo.
"""

import json
from pathlib import Path

from hermes_nb.errors import FileProblem

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
    """Read the history of a stage folder (or a `history.jsonl`) as `DataFrame[run, step, split, metric, value]`.

    Raises FileProblem when there is none or a line is damaged.
    """
    path = Path(run)
    file = path if path.is_file() else path / "history.jsonl"
    if not file.is_file():
        raise FileProblem(f"{path}: no history.jsonl here; give a stage folder such as runs/NAME/dpo.")
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except json.JSONDecodeError as error:
        raise FileProblem(f"{file}: damaged ({error.msg}); run the stage again.") from error
    return frame(rows, run=file.parent.name)


def series(table, metric: str, split: str = "train"):
    """One metric of a tidy frame as a Series over steps."""
    chosen = table[(table.metric == metric) & (table.split == split)]
    return chosen.set_index("step")["value"]
