"""Rows for the audit: 40 good pairs and 20 with one planted fault each, in the schema of `orca_dpo_pairs`.

`id` begins with `ok-` or with the audit's reason in dashes. Faults show at max_length = 384 with the built-in model's
tokens. The reason `roles` is missing: this schema has one text a role, so a reader cannot get turns wrong.
`python data_samples/messy.py` writes `messy.jsonl`.
"""

COUNT = 60
FAULTS = (
    "empty prompt",
    "empty answer",
    "identical answers",
    "prompt not a prefix",
    "prompt too long",
    "stop token cut",
)


def card(topic: dict) -> str:
    """The house style: three labelled lines."""
    return f"Short answer: {topic['short']}\nWhy: {topic['why']}\nTry this: {topic['try']}"


def notes(topics: list[dict], at: int) -> str:
    """The prose of ten topics from `at` on: longer than 384 tokens."""
    return " ".join(topics[(at + i) % len(topics)]["prose"] for i in range(10))


def good(topic: dict, number: int) -> dict:
    """A pair without a fault: the card against vague words, half a sentence, or prose."""
    rejected = topic[("vague", "evasive", "prose")[number % 3]]
    system = topic.get("system", "")
    return {"system": system, "question": topic["question"], "chosen": card(topic), "rejected": rejected}


def spoiled(topics: list[dict], at: int, fault: str, variant: int) -> dict:
    """The pair of topic `at` with one fault, in one of up to four variants."""
    row = good(topics[at % len(topics)], at)
    side = ("chosen", "rejected")[variant % 2]
    changes = {
        "empty prompt": lambda: {"question": ("", "  ", "\n", " \t ")[variant]},
        "empty answer": lambda: {side: ("", "  ", "\n\n", "\t")[variant]},
        "identical answers": lambda: {"rejected": row["chosen"] + ("", " ", "\n", "  ")[variant]},
        "prompt not a prefix": lambda: {side: ("\n\n", "  ", "\n \n", "   ")[variant] + row[side]},
        "prompt too long": lambda: {"question": f"My notes: {notes(topics, at)}\n\nNow this: {row['question']}"},
        "stop token cut": lambda: {side: f"{row[side]}\nMore: {notes(topics, at)}"},
    }
    return row | changes[fault]()


def rows(topics: list[dict]) -> list[dict]:
    """The 60 rows, every third one at fault; a function of `topics` (those of training) alone."""
    out = []
    for at in range(COUNT):
        variant, fault = divmod(at // 3, len(FAULTS))
        if at % 3 < 2:
            row, name = good(topics[at % len(topics)], at), "ok"
        else:
            row, name = spoiled(topics, at, FAULTS[fault], variant), FAULTS[fault].replace(" ", "-")
        out.append({"id": f"{name}-{at:02d}", **row})
    return out


if __name__ == "__main__":
    import build

    (build.HERE / "messy.jsonl").write_text(build.text(rows(build.read("train"))), encoding="utf-8")
