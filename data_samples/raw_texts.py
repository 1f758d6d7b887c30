"""The source texts of `raw.py` in one form, and how public sets write a dialogue down.

An item is a dialogue: `turns` up to the last question, `system` (empty for most), and four answers, `good`, `fair`,
`poor` and `wrong`. Topics have that form too: card, prose, vague and evasive words.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
BY_HAND = ("ultrafeedback_binarized", "hh_rlhf", "pku_saferlhf")  # small files that open the one of their schema
SIDES = (("good", "poor"), ("fair", "wrong"), ("good", "wrong"), ("fair", "poor"), ("good", "fair"))
# the harms that PKU-SafeRLHF names
HARMS = (
    "Endangering National Security", "Insulting Behavior", "Discriminatory Behavior", "Endangering Public Health",
    "Copyright Issues", "Violence", "Drugs", "Privacy Violation", "Economic Crime", "Mental Manipulation",
    "Human Trafficking", "Physical Harm", "Sexual Content", "Cybercrime", "Disrupting Public Order",
    "Environmental Damage", "Psychological Harm", "White-Collar Crime", "Animal Abuse",
)  # fmt: skip


def lines(name: str) -> list[dict]:
    """Rows of a JSONL file beside this one."""
    with open(HERE / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def digest(text: str) -> str:
    """SHA-256 of a text, as hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def topic(row: dict) -> dict:
    """A topic as an item; `short` is kept besides."""
    card = f"Short answer: {row['short']}\nWhy: {row['why']}\nTry this: {row['try']}"
    answers = {"good": card, "fair": row["prose"], "poor": row["vague"], "wrong": row["evasive"]}
    return {"turns": [row["question"]], "system": row.get("system", ""), **answers, "short": row["short"]}


def texts() -> dict[str, list[dict]]:
    """All source texts by name: `dialogues` and `topics` as items, `safety`, and the small files written by hand."""
    found = {name: lines(name) for name in ("safety", *BY_HAND)}
    found["dialogues"] = [{**row, "system": ""} for row in lines("dialogues")]
    return found | {"topics": [topic(row) for row in lines("topics_train")]}


def some(src: dict, talks: int, cards: int, at: int, single: bool = False) -> list[dict]:
    """`talks` dialogues (with `single` those of one turn) and `cards` topics from place `at` on, mixed by a hash."""
    dialogues = [item for item in src["dialogues"] if len(item["turns"]) == 1 or not single]
    found = [dialogues[(at + i) % len(dialogues)] for i in range(talks)]
    found += [src["topics"][(at + i) % len(src["topics"])] for i in range(cards)]
    return sorted(found, key=lambda item: digest(item["turns"][-1]))


def sides(item: dict, number: int) -> tuple[str, str]:
    """A better and a worse answer; which ones goes by the row's number."""
    better, worse = SIDES[number % len(SIDES)]
    return item[better], item[worse]


def said(item: dict, answer: str = "") -> list[dict]:
    """Messages of an item, ending in `answer` where one is given."""
    first = [{"content": item["system"], "role": "system"}] if item["system"] else []
    turns = [*item["turns"], *([answer] if answer else [])]
    return first + [{"content": what, "role": ("user", "assistant")[i % 2]} for i, what in enumerate(turns)]


def talks(src: dict, *drawn, system: bool = True) -> list[list[dict]]:
    """Conversations of drawn items, answered well and fairly in turn; without system turns where a set has none."""
    found = [said(item, item[("good", "fair")[n % 2]]) for n, item in enumerate(some(src, *drawn))]
    return [[m for m in one if system or m["role"] != "system"] for one in found]


def shared(found: list[dict]) -> list[dict]:
    """Messages as ShareGPT writes them."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[m["role"]], "value": m["content"]} for m in found]


def human(item: dict) -> str:
    """The turns before the answer, as in hh-rlhf."""
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {what}" for i, what in enumerate(item["turns"]))


def marks_are_turns(prompt: str, answers: tuple[str, str]) -> bool:
    """Whether every "Assistant:" of a dialogue opens a turn, and none is spoken of."""
    return (prompt + "".join(answers)).count("Assistant:") == prompt.count("\n\nAssistant:")


def cut(whole: str) -> str:
    """The prompt that Hermes-7b's script keeps of a dialogue: from the second exchange on, too little by one."""
    pieces = whole.split("Assistant: ")
    return "".join(piece + "Assistant: " for piece in pieces[: len(pieces) - 2 or 1])


def rendered(found: list[dict], template: str) -> str:
    """Messages as one text: ChatML, Zephyr's tags, or Alpaca's headings with the system text above them."""
    if template == "alpaca":
        heads = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
        return "\n\n".join(heads[m["role"]] + m["content"] for m in found)
    before, after = {"chatml": ("<|im_start|>{}\n", "<|im_end|>\n"), "zephyr": ("<|{}|>\n", "</s>\n")}[template]
    return "".join(before.format(m["role"]) + m["content"] + after for m in found)


def named(columns: str, rows) -> list[dict]:
    """Rows under the names of their columns."""
    return [dict(zip(columns.split(), row, strict=True)) for row in rows]
