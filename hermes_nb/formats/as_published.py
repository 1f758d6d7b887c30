"""Readers with the defects that five published systems had, for lessons and comparisons; never the default.

Rows come out as those scripts made them: mostly three rendered texts (TRL's standard form), not messages. The audit
names what is wrong with their ids; an answer that was moved to another question it cannot see. Lesson:
01_preference_data.
"""

from collections.abc import Iterator
from dataclasses import replace

from hermes_nb.errors import DataProblem
from hermes_nb.formats import chats, ratings, safety
from hermes_nb.formats.rows import Unusable, items, messages, number, parted, text
from hermes_nb.formats.table import READERS, Reader

LIMIT = 2048  # Hermes-7b's, meant as tokens and compared with characters
TAG = "<|assitant|>"  # its spelling of the tag of past assistant turns


def hh_rlhf_as_published(whole: str) -> tuple[str, str]:
    """Prompt and answer as Hermes-7b's script cut an hh-rlhf dialogue.

    From the second exchange on one exchange too many is left out: Q1 A1 Q2 A2 gives the prompt Q1 with the answer A2.
    Source: https://github.com/gauss5930/Hermes, data_pipeline/data_pipeline.py
    """
    pieces = whole.split("Assistant: ")
    return "Assistant: ".join([*pieces[: len(pieces) - 2 or 1], ""]), pieces[-1]


def _hermes_pair(prompt: str, chosen: str, rejected: str) -> dict:
    """Hermes' DPO string: no newline between turns, a mistyped tag, no stop token; characters taken for tokens."""
    if max(len(prompt) + len(side) for side in (chosen, rejected)) > LIMIT:
        raise Unusable("too many characters", f"more than {LIMIT}")
    asked = []
    for exchange in prompt.split("Human: ")[1:] if "Human: " in prompt else [prompt]:
        question, *answer = exchange.split("Assistant:")
        asked.append(f"<|user|>\n{question.strip()}</s>")
        if answer and answer[0].strip():
            asked.append(f"{TAG}\n{answer[0].strip()}</s>")
    return {"prompt": "".join(asked) + "\n<|assistant|>\n", "chosen": chosen, "rejected": rejected}


def hermes_hh_rlhf(row: dict) -> dict:
    """hh-rlhf in Hermes-7b: later exchanges lost, `<|assitant|>`, no stop token, a limit in characters."""
    (prompt, chosen), (_, rejected) = (hh_rlhf_as_published(text(row[side], side)) for side in ("chosen", "rejected"))
    return _hermes_pair(prompt, chosen, rejected)


def hermes_rlhf_reward(row: dict) -> dict:
    """rlhf-reward-datasets in Hermes-7b: the answer is what follows the last `Assistant: `, wherever that stands."""
    chosen, rejected = (text(row[side], side).split("Assistant: ")[-1] for side in ("chosen", "rejected"))
    return _hermes_pair(text(row["prompt"], "prompt"), chosen, rejected)


def hermes_ultrafeedback(row: dict) -> dict:
    """UltraFeedback in Hermes-7b: best against second best, equal scores and all; with one answer rejected is empty."""
    answers = items(row["completions"], "completions")
    rated = sorted(answers, key=lambda answer: -(number(answer.get("overall_score"), "overall_score") or 0.0))
    both = [text(answer.get("response"), "response") for answer in rated[:2]]
    return _hermes_pair(text(row["instruction"], "instruction"), *(both + ["", ""])[:2])


def hermes_preference(row: dict) -> dict:
    """Hermes-7b's own mixture file, as its DPO script renders it: mistyped tag, no stop token, characters."""
    return _hermes_pair(*(text(row[part], part) for part in ("prompt", "chosen", "rejected")))


def hermes_ultrachat(row: dict) -> dict:
    """UltraChat in Hermes-7b's LoRA script: one text, turns without a newline between them."""
    found = chats.ultrachat(row)["messages"]
    return {"text": "".join(f"<|{m['role']}|>\n{m['content']}</s>" for m in found)}


def hermes_full_ultrachat(row: dict) -> dict:
    """UltraChat in Hermes-7b's full fine-tuning script: a role misspelt, so every assistant turn is dropped."""
    return {"messages": [m for m in chats.ultrachat(row)["messages"] if m["role"] == "user"]}


def _chatml(system: str, question: str) -> str:
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{head}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def _plain(pair: dict) -> tuple[str, str, str, str]:
    """System, question, chosen and rejected text of a pair with one question."""
    asked = {m["role"]: m["content"] for m in pair["prompt"]}
    return asked.get("system", ""), asked["user"], pair["chosen"][0]["content"], pair["rejected"][0]["content"]


def dpopenhermes_orca(row: dict) -> dict:
    """Orca pairs in DPOpenHermes-7B (axolotl's `chatml.intel`): the text holds its stop token already.

    TRL 0.7's collator then masked every stop token in the text and appended another; TRL 1.16 does not, so the missing
    stop token of that model cannot come from these rows today.
    """
    system, question, chosen, rejected = _plain(ratings.orca_dpo_pairs(row))
    return {"prompt": _chatml(system, question), "chosen": f"{chosen}<|im_end|>", "rejected": f"{rejected}<|im_end|>"}


def dpopenhermes_ultrafeedback(row: dict) -> dict:
    """argilla's UltraFeedback in DPOpenHermes-7B (`chatml.argilla`): the text holds its stop token already."""
    _, question, chosen, rejected = _plain(ratings.ultrafeedback_binarized_preferences(row))
    return {"prompt": _chatml("", question), "chosen": f"{chosen}<|im_end|>", "rejected": f"{rejected}<|im_end|>"}


def neuralhermes_orca(row: dict) -> dict:
    """Orca pairs in NeuralHermes: a newline after the stop token, so TRL finds none at the end and adds a second."""
    system, question, chosen, rejected = _plain(ratings.orca_dpo_pairs(row))
    sides = {"chosen": f"{chosen}<|im_end|>\n", "rejected": f"{rejected}<|im_end|>\n"}
    return {"prompt": _chatml(system, question), **sides}


def ambersafe_pairs(row: dict) -> dict:
    """PKU-SafeRLHF in AmberSafe: the safe-against-unsafe filter, and the prompt as bare text without a template."""
    _, question, chosen, rejected = _plain(safety.pku_saferlhf(row))
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


def last_target(rows: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict | Unusable]]:
    """Numbered rows, all but the last of each prompt as Unusable: AmberSafe's SFT target is overwritten by that one.

    Holds the rows in memory, as that script does.
    """
    held = list(rows)
    last = {repr(row.get("prompt")): at for at, row in held if _one_safe(row)}
    for at, row in held:
        if not _one_safe(row):
            yield at, Unusable("unlabelled", "not exactly one answer is safe")
        elif last[repr(row.get("prompt"))] != at:
            yield at, Unusable("overwritten", f"by row {last[repr(row.get('prompt'))]}")
        else:
            yield at, row


def _one_safe(row: dict) -> bool:
    return row.get("is_response_0_safe") != row.get("is_response_1_safe")


def ambersafe_safe(row: dict) -> dict:
    """PKU-SafeRLHF for AmberSafe's SFT: bare prompt and safe answer, one row a prompt (see `last_target`)."""
    _, question, chosen, _ = _plain(safety.pku_saferlhf(row))
    return {"text": f"{question}{chosen}"}


def _zephyr(found: list[dict]) -> str:
    """Messages in the published Zephyr template: an empty system turn in front, a newline after every stop token."""
    system = [] if found[0]["role"] == "system" else [{"role": "system", "content": ""}]
    return "".join(f"<|{m['role']}|>\n{m['content']}</s>\n" for m in [*system, *found])


def zephyr_ultrafeedback(row: dict) -> dict:
    """UltraFeedback in the alignment handbook of 2023: the answer's head stands in the answer, not in the prompt.

    The prompt has no generation prompt, `<|assistant|>` and its newline are trained, and so is the newline after the
    stop token; TRL 1.16 adds a second stop token behind it.
    """
    pair = parted(*(messages(row[side], side) for side in ("chosen", "rejected")))
    sides = {side: f"<|assistant|>\n{pair[side][0]['content']}</s>\n" for side in ("chosen", "rejected")}
    return {"prompt": _zephyr(pair["prompt"]), **sides}


def zephyr_ultrachat(row: dict) -> dict:
    """UltraChat 200k in the alignment handbook: an empty system turn, one text, the newline after the stop token."""
    return {"text": _zephyr(chats.ultrachat_200k(row)["messages"])}


VARIANTS = {
    ("hermes", "hh_rlhf"): hermes_hh_rlhf,
    ("hermes", "rlhf_reward"): hermes_rlhf_reward,
    ("hermes", "ultrafeedback"): hermes_ultrafeedback,
    ("hermes", "hermes_preference"): hermes_preference,
    ("hermes", "ultrachat"): hermes_ultrachat,
    ("hermes_full", "ultrachat"): hermes_full_ultrachat,
    ("dpopenhermes", "orca_dpo_pairs"): dpopenhermes_orca,
    ("dpopenhermes", "ultrafeedback_binarized_preferences"): dpopenhermes_ultrafeedback,
    ("neuralhermes", "orca_dpo_pairs"): neuralhermes_orca,
    ("ambersafe", "pku_saferlhf"): ambersafe_pairs,
    ("ambersafe", "pku_saferlhf_safe"): ambersafe_safe,
    ("zephyr", "ultrafeedback_binarized"): zephyr_ultrafeedback,
    ("zephyr", "ultrachat_200k"): zephyr_ultrachat,
}
PREPARE = {("ambersafe", "pku_saferlhf_safe"): last_target}


def reader(source: str, variant: str) -> Reader:
    """The reader of `source` as the system `variant` had it. Raises DataProblem naming the ones there are."""
    if (variant, source) not in VARIANTS:
        there = ", ".join(f"{system} ({name})" for system, name in VARIANTS)
        raise DataProblem(f"{source}: no variant {variant!r} as published; there are {there}.")
    known = READERS[source]
    return replace(known, read=VARIANTS[variant, source], options={}, texts=variant != "hermes_full",
                   prepare=PREPARE.get((variant, source)))  # fmt: skip
