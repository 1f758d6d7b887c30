"""Write `pairs_own_answers_*.jsonl`: `make own-answers`, about three minutes on two cores.

Rejected is what the built-in model itself writes (temperature 0.7), kept where it ends by itself; chosen is a plain
answer of two sentences, written by us. DPO straight on a chat model needs rejected answers that the model gives.
"""

import build

from hermes_nb import generate, models

LIMIT, SHORTEST, TRIES = 140, 40, 2  # tokens, tokens, answers to each question
HOW = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}


def pairs(model, tokenizer, split: str) -> list[dict]:
    """One pair for each question of `split` to which the model gave an answer that ended."""
    topics = build.read(split)
    prompts = [[{"role": "user", "content": t["question"]}] for t in topics]
    rejected = {}
    for seed in range(TRIES):
        for number, answer in enumerate(generate.answers(model, tokenizer, prompts, LIMIT, HOW, seed, batch_size=50)):
            if answer.stops and answer.tokens >= SHORTEST:
                rejected.setdefault(number, answer.text)
    print(f"{split}: {len(rejected)} of {len(topics)} questions got an answer that ended within {LIMIT} tokens")
    return [row(topics[number], number, text, split) for number, text in sorted(rejected.items())]


def row(topic: dict, number: int, rejected: str, split: str) -> dict:
    """One row in the schema of `orca_dpo_pairs`."""
    chosen = f"{topic['short']} {topic['why']}"
    return {
        "id": f"own-{split}-{number:03d}", "system": "", "question": topic["question"],
        "chosen": chosen, "rejected": rejected,
    }  # fmt: skip


if __name__ == "__main__":
    base, tokens = models.load_4bit("builtin"), models.tokenizer("builtin", "chatml")
    for name in ("train", "held_out"):
        rows = pairs(base, tokens, name)
        (build.HERE / f"pairs_own_answers_{name}.jsonl").write_text(build.text(rows), encoding="utf-8")
