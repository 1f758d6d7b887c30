"""The table of readers: adding a source is one function and one row here. Lesson: 01_preference_data."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hermes_nb.errors import DataProblem
from hermes_nb.formats import chats, dialogues, ratings, safety

SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen", "train_prefs", "test_prefs")  # the handbook's six


@dataclass(frozen=True)
class Reader:
    """One known source: its reader, what it makes, the columns it needs, its hub name and splits.

    `schemas` holds every naming of the needed columns; `more` are columns that its files have besides, which tell it
    from sources with the same needed ones. `label` is the column whose first word labels a row (our own files').
    """

    read: Callable[..., dict]
    makes: str  # pairs | conversations
    schemas: tuple[tuple[str, ...], ...]
    hub: str | None = None
    more: tuple[str, ...] = ()
    label: str = ""
    splits: tuple[str, ...] = ("train", "test")
    options: dict = field(default_factory=dict)  # choices of the reader, name to values, the default first
    texts: bool = False  # rows hold rendered texts instead of messages, as some published scripts made them
    prepare: Callable | None = None  # numbered raw rows in and out, where one row depends on others

    @property
    def columns(self) -> tuple[str, ...]:
        """The needed columns in their present naming."""
        return self.schemas[0]

    def lacks(self, row: dict) -> list[str]:
        """Needed columns that a raw row has not, in the naming that comes nearest."""
        return min(([c for c in columns if c not in row] for columns in self.schemas), key=len)


def _columns(text: str, *others: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names.split()) for names in (text, *others))


SAFETY = "prompt response_0 response_1 is_response_0_safe is_response_1_safe"
SAFETY_MORE = ("better_response_id", "safer_response_id", "prompt_source", "response_0_source", "response_1_source",
               "response_0_harm_category", "response_1_harm_category", "response_0_severity_level",
               "response_1_severity_level", "response_0_sha256", "response_1_sha256")  # fmt: skip
BINARIZED = "chosen rejected score_chosen score_rejected"

READERS = {
    "orca_dpo_pairs": Reader(
        ratings.orca_dpo_pairs, "pairs",
        _columns("system question chosen rejected", "system question chatgpt llama2-13b-chat"),
        "Intel/orca_dpo_pairs", label="id", splits=("train",),
    ),
    "ultrachat": Reader(
        chats.ultrachat, "conversations", _columns("data"), "stingning/ultrachat", ("id",), splits=("train",)
    ),
    "ultrachat_200k": Reader(
        chats.ultrachat_200k, "conversations", _columns("messages prompt_id", "messages prompt"),
        "HuggingFaceH4/ultrachat_200k", ("prompt", "prompt_id"), "prompt_id", SPLITS[:4],
    ),
    "ultrafeedback": Reader(
        ratings.ultrafeedback, "pairs", _columns("instruction completions"), "openbmb/UltraFeedback",
        ("source", "models", "correct_answers", "incorrect_answers"), splits=("train",),
        options={"against": ("second", "random"), "by": ("overall", "aspects")},
    ),
    "ultrafeedback_binarized": Reader(
        ratings.ultrafeedback_binarized, "pairs", _columns(BINARIZED), "HuggingFaceH4/ultrafeedback_binarized",
        ("prompt", "prompt_id", "messages"), splits=(*SPLITS[4:], *SPLITS[:4]),
    ),
    "ultrafeedback_binarized_preferences": Reader(
        ratings.ultrafeedback_binarized_preferences, "pairs",
        _columns("instruction chosen_response rejected_response chosen_avg_rating rejected_avg_rating"),
        "argilla/ultrafeedback-binarized-preferences", ("source", "chosen_model"), splits=("train",),
    ),
    "hh_rlhf": Reader(dialogues.hh_rlhf, "pairs", _columns("chosen rejected"), "Anthropic/hh-rlhf"),
    "rlhf_reward": Reader(
        dialogues.rlhf_reward, "pairs", _columns("prompt chosen rejected"), "yitingxie/rlhf-reward-datasets"
    ),
    "hermes_preference": Reader(
        dialogues.hermes_preference, "pairs", _columns("source prompt chosen rejected"), splits=("train",)
    ),
    "pku_saferlhf": Reader(
        safety.pku_saferlhf, "pairs", _columns(SAFETY), "PKU-Alignment/PKU-SafeRLHF", SAFETY_MORE
    ),
    "pku_saferlhf_safer": Reader(
        safety.pku_saferlhf_safer, "pairs", _columns("prompt response_0 response_1 safer_response_id"),
        "PKU-Alignment/PKU-SafeRLHF", SAFETY_MORE,
    ),
    "pku_saferlhf_safe": Reader(
        safety.pku_saferlhf_safe, "conversations", _columns(SAFETY), "PKU-Alignment/PKU-SafeRLHF", SAFETY_MORE
    ),
    "openhermes": Reader(
        chats.openhermes, "conversations", _columns("instruction input output"), "teknium/openhermes",
        splits=("train",),
    ),
    "sharegpt": Reader(
        chats.sharegpt, "conversations", _columns("conversations"), "teknium/OpenHermes-2.5", ("id", "source"),
        splits=("train",),
    ),
    "sharegpt_pairs": Reader(chats.sharegpt_pairs, "pairs", _columns("conversations chosen rejected")),
    "message_lists": Reader(chats.ultrachat_200k, "conversations", _columns("messages")),
    "message_pairs": Reader(chats.message_pairs, "pairs", _columns("prompt chosen rejected", "chosen rejected")),
    "plain_pairs": Reader(dialogues.plain_pairs, "pairs", _columns("prompt chosen rejected"), more=("metadata",)),
    "plain_text": Reader(dialogues.plain_text, "conversations", _columns("text")),
    "prompt_completion": Reader(dialogues.prompt_completion, "conversations", _columns("prompt completion")),
}  # fmt: skip


def reader(source: str) -> Reader:
    """The reader of `source`. Raises DataProblem naming the known ones."""
    if source not in READERS:
        raise DataProblem(f"no source {source!r}; known are {', '.join(READERS)}.")
    return READERS[source]


def hub_split(known: Reader, split: str) -> str:
    """The hub's name of `split`: `train`, `test`, or one of the handbook's six (`train|test` x `sft|gen|prefs`).

    `train` and `test` mean those that fit what the reader makes; one of the six means `train` or `test` where the set
    has no parts of that kind. Another word is passed on as it is. Raises DataProblem for a test of a set without one.
    """
    half = split.split("_")[0]
    if half == "test" and not any(name.startswith("test") for name in known.splits):
        raise DataProblem(f"{known.hub}: has no test rows, only {', '.join(known.splits)}.")
    if split in known.splits or half not in ("train", "test") or (split != half and split not in SPLITS):
        return split
    return next((name for name in known.splits if name.split("_")[0] == half), half)
