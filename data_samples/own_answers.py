"""Write `pairs_own_answers_*.jsonl`: `make own-answers`, about three minutes on two cores.

Rejected is what the built-in model itself writes (temperature 0.7), kept where it ends by itself; chosen is a plain
answer of two sentences, written by us. DPO straight on a chat model needs rejected answers that the model gives.
"""

import build

from hermes_nb import generate, models

LIMIT, SHORTEST = 220, 40  # tokens
HOW = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}


def pairs(model, tokenizer, split: str) -> list[dict]:
    """One pair for each question of `split` to which the model gave an answer that ended."""
    topics = build.read(split)
    prompts = [[{"role": "user", "content": t["question"]}] for t in topics]
    rows = []
    for number, answer in enumerate(generate.answers(model, tokenizer, prompts, LIMIT, HOW, seed=0, batch_size=50)):
        if answer.stops and answer.tokens >= SHORTEST:
            topic = topics[number]
            row = {"id": f"own-{split}-{number:03d}", "system": "", "question": topic["question"]}
            rows.append(row | {"chosen": f"{topic['short']} {topic['why']}", "rejected": answer.text})
    print(f"{split}: {len(rows)} of {len(topics)} answers ended within {LIMIT} tokens and are kept")
    return rows


if __name__ == "__main__":
    base, tokens = models.load_4bit("builtin"), models.tokenizer("builtin", "chatml")
    for name in ("train", "held_out"):
        (build.HERE / f"pairs_own_answers_{name}.jsonl").write_text(
            build.text(pairs(base, tokens, name)), encoding="utf-8"
        )
