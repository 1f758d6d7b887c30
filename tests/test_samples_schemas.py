"""The promises of "Raw schemas" in data_samples/README.md. Run alone: python -m pytest tests/test_samples_schemas.py"""

import hashlib
import importlib
import json
import re
from collections import Counter

import pyarrow
import pytest

from hermes_nb import formats
from hermes_nb.runtime import samples_dir

SAFE = "prompt response_0 response_1 is_response_0_safe is_response_1_safe better_response_id safer_response_id"
TODAY = " ".join(f"response_{k}_{w}" for k in (0, 1) for w in ("source", "harm_category", "severity_level", "sha256"))
RATED = "chosen_response rejected_response chosen_avg_rating rejected_avg_rating"
# file, rows, columns of the public set
TABLE = f"""
ultrachat.jsonl 60 id data
ultrachat_200k.jsonl 50 prompt prompt_id messages
ultrafeedback.jsonl 60 source instruction models completions correct_answers incorrect_answers
ultrafeedback_binarized.jsonl 60 prompt prompt_id chosen rejected messages score_chosen score_rejected
ultrafeedback_binarized_preferences.jsonl 48 source instruction chosen_model {RATED}
hh_rlhf.jsonl 78 chosen rejected
rlhf_reward.jsonl 50 prompt chosen rejected
hermes_preference.json 60 source prompt chosen rejected
orca_dpo_pairs_2023.jsonl 52 system question chatgpt llama2-13b-chat
pku_saferlhf_v0.jsonl 60 {SAFE}
pku_saferlhf.jsonl 60 {SAFE} prompt_source {TODAY}
openhermes.jsonl 60 instruction input output
sharegpt.jsonl 50 id source conversations
sharegpt_pairs.jsonl 60 conversations chosen rejected
sharegpt_pairs.parquet 60 conversations chosen rejected
message_lists.jsonl 40 messages
message_pairs.jsonl 50 prompt chosen rejected
message_pairs_implicit.jsonl 45 chosen rejected
plain_pairs.jsonl 55 prompt chosen rejected
plain_pairs.csv 55 prompt chosen rejected
chatml_dpo_pairs.jsonl 55 prompt chosen rejected
plain_text.jsonl 60 text
prompt_completion.jsonl 45 prompt completion
"""
FILES = {name: (int(rows), columns) for name, rows, *columns in map(str.split, TABLE.strip().splitlines())}
DROPPED = {
    "ultrafeedback.jsonl": {"no preference": 3, "fewer than two answers": 3},
    "ultrafeedback_binarized.jsonl": {"no preference": 3},
    "pku_saferlhf_v0.jsonl": {"both safe": 13, "none safe": 8},
    "pku_saferlhf.jsonl": {"both safe": 10, "none safe": 8},
}
SOURCE = {
    "orca_dpo_pairs_2023": "orca_dpo_pairs", "pku_saferlhf_v0": "pku_saferlhf", "chatml_dpo_pairs": "plain_pairs",
    "message_pairs_implicit": "message_pairs",
}  # fmt: skip
BY_HAND = ("ultrafeedback_binarized.jsonl", "hh_rlhf.jsonl", "pku_saferlhf_v0.jsonl")  # 14 rows each
ULTRA = "ultrafeedback.jsonl"
QUIRKS = (5, 13, 27, 51)  # dialogues that speak of Human: and Assistant:


def source_of(name):
    return SOURCE.get(name.split(".")[0], name.split(".")[0])


def rows_of(name):
    return list(formats.raw_rows(samples_dir() / "raw" / name))


def read(name, source=None, **how):
    return formats.read(source or source_of(name), f"raw/{name}", **how)


def talks(rows):
    """Every conversation of converted rows, as lists of role and text; a pair is two."""
    for row in rows:
        sides = [row["messages"]] if "messages" in row else [row["prompt"] + row[s] for s in ("chosen", "rejected")]
        yield from ([(m["role"], m["content"]) for m in side] for side in sides)


@pytest.fixture(scope="module")
def raw():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(samples_dir())
        return importlib.import_module("raw")


@pytest.fixture(scope="module")
def src(raw):
    return raw.texts()


def test_the_folder_and_its_page_name_the_same_files_and_rows():
    """A file that the README leaves out, or counts wrongly, is one that nobody can trust."""
    assert {path.name for path in (samples_dir() / "raw").iterdir()} == set(FILES)
    page = (samples_dir() / "README.md").read_text(encoding="utf-8").split("## Raw schemas")[1]
    told = {}
    for names, counts, schema in re.findall(r"^\| (`[^|]+) \| ([\d, ]+) \| `(\w+)` \|", page, re.M):
        for name, count in zip(re.findall(r"`([^`]+)`", names), counts.split(", "), strict=True):
            told[name] = (int(count), schema)
    assert told == {name: (rows, source_of(name)) for name, (rows, _) in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_its_rows_and_one_schema(name):
    """Rows in a schema of our own would pass here and fail on the public set's; mixed types break every loader."""
    rows, columns = FILES[name]
    assert 40 <= rows <= 80
    found = rows_of(name)
    assert len(found) == rows
    assert {frozenset(row) for row in found} == {frozenset(columns)}
    assert not [field for field in pyarrow.Table.from_pylist(found).schema if pyarrow.types.is_null(field.type)]


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_known_by_its_schema_and_only_the_planted_rows_are_dropped(name):
    """A sample taken for another source, or refused where nothing was planted, teaches the wrong schema."""
    assert formats.detect(f"raw/{name}") == source_of(name)
    found = read(name)
    assert Counter(row["reason"] for row in found.dropped) == DROPPED.get(name, {})
    assert len(found.rows) + len(found.dropped) == FILES[name][0]


@pytest.mark.parametrize("name", FILES)
def test_every_message_is_one_of_our_texts_whole(name, raw, src):
    """A reader that cuts a text, leaves a piece of a template in it or mixes the speakers up tells what nobody said."""
    items = src["dialogues"] + src["topics"]
    ours = {text for item in items for text in (*item["turns"], item["system"], item.get("short"))} - {""}
    ours |= {item[side] for item in items for side in ("good", "fair", "poor", "wrong")}
    ours |= {row[part] for row in src["safety"] for part in ("prompt", "response_0", "response_1")}
    ours |= {f"{task}\n\n{item['fair']}" for task in raw.REWORDED for item in src["topics"]}
    first = 14 if name in BY_HAND else 0
    found = list(talks(row for row in read(name).rows if row["row"] >= first))
    assert len(found) >= 40
    for talk in found:
        assert {text for _, text in talk} <= ours
        roles = [role for role, _ in talk if role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_files_are_what_the_builder_writes(raw):
    """A row mended by hand would be undone by the next build. Parquet's bytes change with pyarrow, its rows do not."""
    built = raw.build()
    assert set(built) == set(FILES)
    for name, rows in built.items():
        assert raw.content(name, rows) == raw.content(name, rows)
        if name.endswith(".parquet"):
            assert rows_of(name) == rows
        else:
            assert (samples_dir() / "raw" / name).read_bytes() == raw.content(name, rows), name
    for name in BY_HAND:  # the lesson's small files open these
        assert built[name][:14] == list(formats.raw_rows(samples_dir() / name.replace("_v0", "")))


def test_csv_and_parquet_hold_the_rows_of_their_jsonl():
    """A kind of file that changes a row on the way would change what is trained."""
    for name, other in (("plain_pairs", "csv"), ("sharegpt_pairs", "parquet")):
        assert rows_of(f"{name}.{other}") == rows_of(f"{name}.jsonl")
        assert read(f"{name}.{other}").rows[:] == read(f"{name}.jsonl").rows[:]


@pytest.mark.parametrize(("name", "count"), [("hh_rlhf.jsonl", 4), ("rlhf_reward.jsonl", 2), ("ultrachat.jsonl", 3)])
def test_dialogues_that_speak_of_human_and_assistant_stay_whole(name, count, src):
    """`Human:` inside a line, or after one newline, is text; taken for a turn it would tear the dialogue."""
    found = [[text for _, text in talk][:-1] for talk in talks(read(name).rows)]
    assert sum(src["dialogues"][number]["turns"] in found for number in QUIRKS) == count


def test_hh_rlhf_repeats_five_prompts_with_other_answers():
    """Repeated prompts are the audit's business; a reader that dropped them would hide them."""
    prompts = Counter(json.dumps(row["prompt"]) for row in read("hh_rlhf.jsonl").rows)
    assert Counter(prompts.values()) == {1: 78 - 2 * 5, 2: 5}
    assert len({(row["chosen"], row["rejected"]) for row in rows_of("hh_rlhf.jsonl")}) == 78


def test_safety_prompts_come_again_and_every_reader_keeps_its_own_rows():
    """AmberSafe's SFT loses all but the last row of a prompt; the shipped readers must not."""
    for name in ("pku_saferlhf.jsonl", "pku_saferlhf_v0.jsonl"):
        assert max(Counter(row["prompt"] for row in rows_of(name)).values()) >= 2
        assert len(read(name, "pku_saferlhf_safer").rows) == 60
        assert len(read(name, "pku_saferlhf_safe").rows) == 60 - 8
        assert len(read(name, "pku_saferlhf_safe", variant="ambersafe").rows) < len(read(name).rows)


def test_safety_rows_have_the_types_of_the_public_set():
    """19 harms true or false, a severity from 0 to 3 that is 0 for safe answers only, the digest of each answer."""
    levels = set()
    for row in rows_of("pku_saferlhf.jsonl"):
        for at in (0, 1):
            safe, level = row[f"is_response_{at}_safe"], row[f"response_{at}_severity_level"]
            assert sorted(row[f"response_{at}_harm_category"].values()) == [False] * 18 + [not safe]
            assert safe == (level == 0)
            assert row[f"response_{at}_sha256"] == hashlib.sha256(row[f"response_{at}"].encode()).hexdigest()
            levels.add(level)
        safer = row["safer_response_id"]
        assert row[f"response_{safer}_severity_level"] <= row[f"response_{1 - safer}_severity_level"]
    assert levels == {0, 1, 2, 3}


def test_ultrafeedback_holds_the_published_bug():
    """By the overall score the poor answer of four rows is chosen, by the aspects it is not: the two readers differ."""
    scores = [[(a["overall_score"], a["fine-grained_score"]) for a in row["completions"]] for row in rows_of(ULTRA)]
    bugs = [n for n, four in enumerate(scores) if (10, 1) in four]
    by = {how: {row["row"]: row for row in read(ULTRA, by=how).rows} for how in ("overall", "aspects")}
    assert len(bugs) == 4
    assert [n for n in by["overall"] if by["overall"][n]["chosen"] != by["aspects"][n]["chosen"]] == bugs
    assert set(by["overall"]) == set(by["aspects"])


def test_ultrafeedback_answers_have_the_fields_of_the_public_set():
    """Ratings are text there and scores are numbers; a mixture would be read by nobody but us."""
    rows = rows_of(ULTRA)
    answer = pyarrow.Table.from_pylist(rows).schema.field("completions").type.value_type
    names = "annotations critique custom_system_prompt fine-grained_score model overall_score principle response"
    assert sorted(answer.field(i).name for i in range(answer.num_fields)) == names.split()
    assert answer.field("overall_score").type == answer.field("fine-grained_score").type == pyarrow.float64()
    assert answer.field("annotations").type.field("honesty").type.field("Rating").type == pyarrow.string()
    assert {len(row["completions"]) for row in rows} == {4} == {len({row["models"][0] for row in rows})}


def test_the_hermes_mixture_is_what_its_script_makes_of_hh_rlhf():
    """Three sources; of every dialogue with more than one exchange the question that was answered is gone."""
    rows = rows_of("hermes_preference.json")
    assert Counter(row["source"] for row in rows) == {"ultrafeedback": 22, "hh-rlhf": 20, "rlhf-reward": 18}
    made = {formats.hh_rlhf_as_published(row["chosen"]): row["chosen"] for row in rows_of("hh_rlhf.jsonl")}
    cut = [made[row["prompt"], row["chosen"]] for row in rows if row["source"] == "hh-rlhf"]
    assert 5 <= sum(text.count("\n\nAssistant:") > 1 for text in cut) < 20


def test_chatml_gives_the_messages_of_the_plain_pairs(src):
    """A template around a text must come off without a trace; only the system turns are more."""
    plain, chatml = read("plain_pairs.jsonl").rows, read("chatml_dpo_pairs.jsonl").rows
    seen = [m["content"] for row in chatml for m in row["prompt"] if m["role"] == "system"]
    assert len(seen) >= 3
    assert {*seen} <= {item["system"] for item in src["topics"]}
    for one, other in zip(plain, chatml, strict=True):
        assert one["prompt"] == [m for m in other["prompt"] if m["role"] != "system"]
        assert (one["chosen"], one["rejected"]) == (other["chosen"], other["rejected"])


def test_system_turns_inputs_and_templates_are_those_of_the_page():
    """Empty system turns are left out, others kept; most instructions have no input; three templates of twenty."""
    rows = rows_of("sharegpt.jsonl")
    empty = [n for n, row in enumerate(rows) if row["conversations"][0] == {"from": "system", "value": ""}]
    told = {n for n, row in enumerate(rows) if row["conversations"][0]["from"] == "system"} - {*empty}
    assert len(empty) == 3
    assert told == {n for n, talk in enumerate(talks(read("sharegpt.jsonl").rows)) if talk[0][0] == "system"} != set()
    assert Counter(bool(row["input"]) for row in rows_of("openhermes.jsonl")) == {False: 48, True: 12}
    marks = ("<|im_start|>user", "<|user|>", "### Instruction:")
    kinds = Counter(m for row in rows_of("plain_text.jsonl") for m in marks if m in row["text"])
    assert kinds == dict.fromkeys(marks, 20)
