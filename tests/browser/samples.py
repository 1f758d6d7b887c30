"""Made-up runs, rows and speakers for notebooks that the browser tests write; no model, no training."""

import threading
import time

TOPICS = ("rain", "bread", "wind", "tea", "sand", "moss")
STEPS = (0, 5, 10)
STEPS_OF_RUN = 4000  # more than anybody waits for


def rows() -> list[dict]:
    """Six pairs of two kinds and two sources."""
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {topic}?"}],
            "chosen": [{"role": "assistant", "content": f"Short answer: {topic} is near."}],
            "rejected": [{"role": "assistant", "content": f"Well, {topic} can be so many different things to people."}],
            "kind": "ab"[i % 2], "source": ("here", "there")[i // 3], "row": i,
        }
        for i, topic in enumerate(TOPICS)
    ]  # fmt: skip


def looks(beta: float = 0.1):
    """A run's looks at these pairs: rewards grow with the step and differ by pair."""
    from pandas import DataFrame

    from hermes_nb import history

    pairs, table, tokens = [], [], {}
    for number, row in enumerate(rows()):
        pieces = [row[side][0]["content"].split(" ") + ["<|im_end|>"] for side in ("chosen", "rejected")]
        pairs.append(row | {"pair": number, "pieces": pieces})
        for step in STEPS:
            sides = [[-2.0 + sign * step * (at + number - 2) / 40 for at in range(len(side))]
                     for side, sign in zip(pieces, (1, -1), strict=True)]  # fmt: skip
            tokens[step, number] = tuple(sides)
            logps, begun = [sum(side) for side in sides], [sum(side) for side in tokens[0, number]]
            rewards = [beta * (now - then) for now, then in zip(logps, begun, strict=True)]
            table.append({"run": "made up", "step": step, "pair": number, "logp_chosen": logps[0],
                          "logp_rejected": logps[1], "reward_chosen": rewards[0], "reward_rejected": rewards[1],
                          "margin": rewards[0] - rewards[1]})  # fmt: skip
    return history.Looks("made up", beta, pairs, DataFrame(table), tokens)


def train(live, pause: float = 0.1) -> int:
    """A training loop without a model: calls `live` as `dpo.train` does; returns the step at which it ended."""
    found, begun, wait = [], time.perf_counter(), threading.Event().wait
    for step in range(STEPS_OF_RUN + 1):
        values = {"loss": 0.7 / (1 + step / 50), "margin": step / 100, "reward_chosen": step / 150,
                  "reward_rejected": -step / 300, "accuracy": 0.5 + step / 9000, "tokens": 500 * step,
                  "seconds": time.perf_counter() - begun, "peak_gb": 1.5}  # fmt: skip
        found += [{"step": step, "split": "train", "metric": name, "value": value} for name, value in values.items()]
        if live(found, step, STEPS_OF_RUN):
            return step
        wait(pause)
    return STEPS_OF_RUN


def speak(name: str, words: int, pause: float = 0.03):
    """A speaker for `chat` that says `words` words, one after the other, unless it is stopped."""
    from hermes_nb.generate import Answer

    def speaker(messages, temperature, say, stop, max_new_tokens=128):
        said, wait = [], threading.Event().wait
        for number in range(words):
            if stop():
                return Answer(" ".join(said), False, len(said))
            said.append(f"{name}{number}")
            say(" ".join(said))
            wait(pause)
        return Answer(" ".join(said), True, words)

    return speaker
