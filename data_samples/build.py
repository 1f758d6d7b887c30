"""Write the sample rows from the two topic files: `python data_samples/build.py`.

Everything is a function of the topic files and of the lists below; a test holds the shipped files against it.
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = "abcd"

# no opening or ending of the held-out rows occurs in training, so that DPO must learn the kind and not a string
OPENINGS = {
    "train": [
        "Great question!",
        "Thank you for asking!",
        "That is a really interesting question!",
        "I am so glad you asked!",
        "What a wonderful thing to wonder about!",
        "Happy to help with that!",
        "Oh, this is a good one!",
        "Thanks for reaching out!",
    ],
    "held_out": [
        "Excellent point to raise!",
        "How lovely that you are curious!",
        "I appreciate you bringing this up!",
        "Certainly, let us talk about it!",
        "You have come to the right place!",
    ],
}
ENDINGS = {
    "train": [
        "I hope this helps!",
        "Let me know if you have any other questions!",
        "Feel free to ask me anything else!",
        "Have a great day!",
        "I am always here if you need me!",
        "Do not hesitate to reach out again!",
    ],
    "held_out": [
        "Wishing you all the best with it!",
        "Please come back any time you like!",
        "It was a pleasure to talk with you!",
        "Best of luck on your journey!",
    ],
}
TOO_EASY = "It depends. Ask someone who knows."
SWAP_EVERY = 5  # noisy.jsonl: labels of rows 4, 9, 14, ... are swapped
HEDGES = [
    "It really does depend on quite a few different things.",
    "There is a lot that could be said about it, of course.",
    "As with so many things in life, it is not that simple.",
    "Of course, everyone will see this a little differently.",
    "There are always several sides to something like this.",
]


def read(name: str) -> list[dict]:
    """The topics of one split."""
    with open(HERE / f"topics_{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def card(topic: dict) -> str:
    """The house style: three labelled lines."""
    return f"Short answer: {topic['short']}\nWhy: {topic['why']}\nTry this: {topic['try']}"


def padded(topic: dict, number: int, split: str) -> str:
    """The style to lose: stock opening, hedge, stock ending."""
    openings, endings = OPENINGS[split], ENDINGS[split]
    parts = (
        openings[number % len(openings)],
        HEDGES[number % len(HEDGES)],
        topic["vague"],
        endings[number % len(endings)],
    )
    return " ".join(parts)


def conversation(topic: dict, number: int, style: str, split: str) -> dict:
    """One row in the schema of `ultrachat_200k`; `prompt_id` names the style."""
    messages = [{"role": "system", "content": topic["system"]}] if "system" in topic else []
    for turn in [topic, *([topic["followup"]] if "followup" in topic else [])]:
        answer = card(turn) if style == "card" else padded(turn, number, split)
        messages += [{"role": "user", "content": turn["question"]}, {"role": "assistant", "content": answer}]
    return {"prompt": topic["question"], "prompt_id": f"{style}-{split}-{number:03d}", "messages": messages}


def unfit(topics: list[dict], number: int, shorter: bool) -> str:
    """A card of another topic, near in length on the wanted side: three good lines that do not fit the question."""
    own = card(topics[number])
    others = [card(t) for i, t in enumerate(topics) if i != number]
    # the topics stand by domain; from a far part of the list the lines cannot fit by accident
    far = [others[(number + len(others) // 4 + i) % len(others)] for i in range(len(others) // 2)]
    return min(far, key=lambda other: ((len(other) < len(own)) != shorter, abs(len(other) - len(own))))


def pairs(topics: list[dict], split: str) -> list[dict]:
    """Rows in the schema of `orca_dpo_pairs`; `id` begins with the kind of pair.

    Kinds c and d together are kept even: chosen the longer in half of them, so that length alone tells nothing.
    """
    rows, balance = [], 0
    for number, topic in enumerate(topics):
        kind = KINDS[(number + number // 4) % 4]
        rejected = {
            "a": lambda topic=topic, number=number: padded(topic, number, split),
            "b": lambda topic=topic: topic["evasive"],
            "c": lambda number=number, shorter=balance < 0: unfit(topics, number, shorter),
            "d": lambda topic=topic: topic["prose"],
        }[kind]()
        chosen = card(topic)
        if kind in "cd":
            balance += 1 if len(chosen) > len(rejected) else -1
        row = {"system": topic.get("system", ""), "question": topic["question"]}
        rows.append({"id": f"{kind}-{split}-{number:03d}", **row, "chosen": chosen, "rejected": rejected})
    return rows


def failures(topics: list[dict]) -> dict[str, list[dict]]:
    """The four sets that each teach something false, 80 rows each, in the schema of `orca_dpo_pairs`.

    The topics with a `more` are those whose prompt and card together have 69 to 76 tokens of the built-in tokenizer:
    at a `max_length` of 84 every `More: ...` is cut 8 to 15 tokens past the card, and every card stays whole.
    """
    long = [(i, t) for i, t in enumerate(topics) if "more" in t]
    plain = pairs(topics, "train")

    def row(name: str, number: int, topic: dict, chosen: str, rejected: str) -> dict:
        base = {"id": f"{name}-{number:03d}", "system": topic.get("system", ""), "question": topic["question"]}
        return base | {"chosen": chosen, "rejected": rejected}

    def noisy(row: dict, number: int) -> dict:
        swap = number % SWAP_EVERY == SWAP_EVERY - 1
        sides = ("rejected", "chosen") if swap else ("chosen", "rejected")
        named = {"id": f"{'swapped' if swap else row['id'][0]}-noisy-{number:03d}"}
        return row | named | {"chosen": row[sides[0]], "rejected": row[sides[1]]}

    more = [row("more", i, t, f"{card(t)}\nMore: {t['more']}", card(t)) for i, t in long]
    easy = [row("easy", i, t, card(t), TOO_EASY) for i, t in long]
    return {
        "length_biased.jsonl": more,
        "cut_stop.jsonl": more,  # the same rows: what fails is the max_length that they are trained with
        "too_easy.jsonl": easy,
        "noisy.jsonl": [noisy(r, i) for i, r in enumerate(plain[:80])],
    }


def build() -> dict[str, list[dict]]:
    """File name to rows."""
    files = {}
    for split in ("train", "held_out"):
        topics = read(split)
        if split == "train":
            talks = [conversation(t, i, s, split) for i, t in enumerate(topics) if i % 2 for s in ("card", "padded")]
        else:
            talks = [conversation(t, i, ("card", "padded")[i % 2], split) for i, t in enumerate(topics)]
        files[f"conversations_{split}.jsonl"] = talks
        files[f"pairs_{split}.jsonl"] = pairs(topics, split)
        if split == "train":
            files |= failures(topics)
    return files


def text(rows: list[dict]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    for name, rows in build().items():
        (HERE / name).write_text(text(rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")
