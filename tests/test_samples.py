"""Every promise of data_samples/README.md. Run alone: python -m pytest tests/test_samples.py"""

import importlib.util
import json
from collections import Counter

import pytest

from hermes_nb import audit, formats, models, templates
from hermes_nb.runtime import samples_dir

SPLITS = ("train", "held_out")


def read(name):
    with open(samples_dir() / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", samples_dir() / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_builder_writes(build):
    """A row mended by hand in one file only would be undone by the next build."""
    for name, rows in build.build().items():
        assert (samples_dir() / name).read_text(encoding="utf-8") == build.text(rows), name


@pytest.mark.parametrize(
    ("name", "count", "source"),
    [
        ("conversations_train.jsonl", 200, "ultrachat_200k"),
        ("conversations_held_out.jsonl", 60, "ultrachat_200k"),
        ("pairs_train.jsonl", 200, "orca_dpo_pairs"),
        ("pairs_held_out.jsonl", 60, "orca_dpo_pairs"),
        ("cut_stop.jsonl", 80, "orca_dpo_pairs"),
        ("length_biased.jsonl", 80, "orca_dpo_pairs"),
        ("too_easy.jsonl", 80, "orca_dpo_pairs"),
        ("noisy.jsonl", 80, "orca_dpo_pairs"),
        ("pairs_own_answers_train.jsonl", 79, "orca_dpo_pairs"),
        ("pairs_own_answers_held_out.jsonl", 20, "orca_dpo_pairs"),
    ],
)
def test_counts_and_schemas(name, count, source):
    """Each file has its source's raw schema, and is recognised by it."""
    assert len(read(name)) == count
    assert formats.detect(name) == source
    assert len(formats.load(source, name)) == count


def test_styles_come_in_equal_parts():
    """SFT imitates the mixture: it must be half and half, every training question once in each style."""
    rows = read("conversations_train.jsonl")
    assert Counter(r["prompt_id"].split("-")[0] for r in rows) == {"card": 100, "padded": 100}
    assert set(Counter(r["prompt"] for r in rows).values()) == {2}
    assert Counter(r["prompt_id"].split("-")[0] for r in read("conversations_held_out.jsonl")) == {
        "card": 30,
        "padded": 30,
    }


@pytest.mark.parametrize("split", SPLITS)
def test_a_fifth_has_two_turns_and_a_fifth_a_system_turn(split):
    """Without them the model would be trained on one shape of prompt."""
    rows = read(f"conversations_{split}.jsonl")
    two = sum(sum(m["role"] == "user" for m in r["messages"]) == 2 for r in rows)
    system = sum(r["messages"][0]["role"] == "system" for r in rows)
    assert 0.18 <= two / len(rows) <= 0.25
    assert 0.18 <= system / len(rows) <= 0.25


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_come_in_four_equal_kinds_and_length_tells_nothing(split):
    """If the longer answer were mostly right, DPO would learn length."""
    rows = read(f"pairs_{split}.jsonl")
    assert set(Counter(r["id"][0] for r in rows).values()) == {len(rows) // 4}
    assert 0.45 <= sum(len(r["chosen"]) > len(r["rejected"]) for r in rows) / len(rows) <= 0.55
    for row in rows:
        ratio = len(row["rejected"]) / len(row["chosen"])
        if row["id"][0] == "a":
            assert ratio > 1, row["id"]
        elif row["id"][0] == "b":
            assert ratio < 0.4, row["id"]
        else:
            assert 0.88 <= ratio <= 1.12, row["id"]


@pytest.mark.parametrize("split", SPLITS)
def test_questions_come_in_five_equal_kinds(split):
    """What is, why, how do I, compare, what if."""
    topics = read(f"topics_{split}.jsonl")
    assert Counter(t["kind"] for t in topics) == dict.fromkeys(
        ("what", "why", "how", "compare", "whatif"), len(topics) // 5
    )


def test_nothing_of_training_is_held_out(build):
    """Neither a topic, a question, an answer nor a stock phrase: DPO must learn the kind, not a string."""
    train, held_out = (read(f"topics_{s}.jsonl") for s in SPLITS)
    for key in ("topic", "question", "short", "why", "try", "vague", "evasive", "prose"):
        assert not {t[key].lower() for t in train} & {t[key].lower() for t in held_out}, key
    for phrases in (build.OPENINGS, build.ENDINGS):
        assert not set(phrases["train"]) & set(phrases["held_out"])
        told = [r["rejected"] for r in read("pairs_held_out.jsonl")]
        assert not [p for p in phrases["train"] if any(p in text for text in told)]
    assert len(build.OPENINGS["train"]) >= 6


def test_no_held_out_question_is_nearly_one_of_training():
    """Leakage by other words: no two questions share most of their words."""

    def words(text):
        return {w.strip("?,.'").lower() for w in text.split()} - {
            "what",
            "is",
            "a",
            "the",
            "of",
            "why",
            "do",
            "how",
            "i",
            "if",
            "in",
            "to",
            "my",
            "and",
            "or",
            "for",
            "does",
        }

    train = [words(t["question"]) for t in read("topics_train.jsonl")]
    for topic in read("topics_held_out.jsonl"):
        mine = words(topic["question"])
        assert max(len(mine & other) / len(mine | other) for other in train) < 0.5, topic["question"]


def test_failure_sets_have_one_fault_each(build):
    """What a failure shows must come from its fault and from nothing else."""
    for row in read("length_biased.jsonl"):
        assert row["chosen"].startswith(row["rejected"] + "\nMore: ")
    assert read("cut_stop.jsonl") == read("length_biased.jsonl")
    assert {row["rejected"] for row in read("too_easy.jsonl")} == {build.TOO_EASY}
    clean = {row["question"]: row for row in read("pairs_train.jsonl")}
    swapped = [i for i, r in enumerate(read("noisy.jsonl")) if r["chosen"] != clean[r["question"]]["chosen"]]
    assert swapped == list(range(4, 80, 5))
    assert [i for i, r in enumerate(read("noisy.jsonl")) if r["id"].startswith("swapped")] == swapped


@pytest.mark.slow
def test_at_84_tokens_every_chosen_of_cut_stop_is_cut_and_no_rejected():
    """The failure needs rejected answers that end exactly where the chosen ones go on."""
    tokenizer = models.tokenizer("builtin", "chatml")
    for row in formats.load("orca_dpo_pairs", "cut_stop.jsonl"):
        prompt, chosen, rejected = templates.pair_ids(tokenizer, row)
        assert chosen[: len(rejected) - 1] == rejected[:-1]
        assert 8 <= 84 - len(prompt) - len(rejected) <= 15
        assert len(prompt) + len(chosen) > 84 + 8


@pytest.mark.slow
def test_rows_fit_and_cards_are_short():
    """By the built-in tokenizer: nothing is dropped at the course's lengths, and a card has about 60 tokens at most."""
    tokenizer = models.tokenizer("builtin", "chatml")
    for split in SPLITS:
        assert (
            audit.pairs(formats.load("orca_dpo_pairs", f"pairs_{split}.jsonl"), tokenizer, 384).report["dropped"] == 0
        )
        talks = formats.load("ultrachat_200k", f"conversations_{split}.jsonl")
        assert audit.conversations(talks, tokenizer, 384).report["dropped"] == 0
        lengths = sorted(len(tokenizer.encode(r["chosen"])) for r in read(f"pairs_{split}.jsonl"))
        assert lengths[len(lengths) // 2] <= 60
        assert lengths[-1] <= 75


def test_nothing_is_spelled_in_control_tokens():
    """A stop token inside a text would become a real one; in the messy rows that is one of the planted faults.

    Logged runs are no rows: they name tokens, the stop token among them.
    """
    logged = samples_dir().glob("history_*.jsonl")
    for file in {*samples_dir().glob("*.jsonl")} - {samples_dir() / "messy.jsonl", *logged}:
        text = file.read_text(encoding="utf-8")
        assert not [t for t in ("<|im_", "</s>", "<|user|>", "<|endoftext|>") if t in text], file.name
