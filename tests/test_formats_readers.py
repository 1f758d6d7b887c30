"""Run alone: python -m pytest tests/test_formats_readers.py"""

import pytest

from hermes_nb import formats


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def rated(answer: str, overall, *aspects) -> dict:
    """One UltraFeedback completion; `aspects` are the four ratings."""
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    notes = {name: {"Rating": note} for name, note in zip(names, aspects, strict=False)}
    return {"response": answer, "overall_score": overall, "annotations": notes}


def talk(*contents: str, end: str = "") -> str:
    """An hh-rlhf dialogue: Human and Assistant in turn."""
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {what}" for i, what in enumerate(contents)) + end


ASKED, GOOD, BAD = said("user", "Q"), said("assistant", "good"), said("assistant", "bad")
PAIR = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
TALK = {"messages": [ASKED, GOOD]}
SAFETY = {
    "prompt": "Q", "response_0": "bad", "response_1": "good", "is_response_0_safe": False, "is_response_1_safe": True,
    "better_response_id": 0, "safer_response_id": 1,
}  # fmt: skip
LISTS = {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}

# one good row of every source, each saying the same: question Q, answers good and bad
ROWS = {
    "orca_dpo_pairs": {"id": "kind-1", "system": "", "question": "Q", "chosen": "good", "rejected": "bad"},
    "ultrachat": {"id": "1", "data": ["Q", "good"]},
    "ultrachat_200k": {"prompt": "Q", "prompt_id": "1", "messages": [ASKED, GOOD]},
    "ultrafeedback": {
        "source": "s", "instruction": "Q", "models": [], "correct_answers": ["None"],
        "completions": [rated("bad", 3.0, "1", "1", "1", "1"), rated("good", 8.0, "5", "5", "5", "5")],
    },
    "ultrafeedback_binarized": {
        "prompt": "Q", "prompt_id": "1", "messages": [ASKED, GOOD], "score_chosen": 8.0, "score_rejected": 3.0, **LISTS
    },
    "ultrafeedback_binarized_preferences": {
        "source": "s", "instruction": "Q", "chosen_response": "good", "rejected_response": "bad",
        "chosen_avg_rating": 5.0, "rejected_avg_rating": 1.5, "chosen_model": "m",
    },
    "hh_rlhf": {"chosen": talk("Q", "good"), "rejected": talk("Q", "bad")},
    "rlhf_reward": {"prompt": talk("Q", end="\n\n"), "chosen": "Assistant: good", "rejected": "Assistant: bad"},
    "hermes_preference": {
        "source": "hh-rlhf", "prompt": talk("Q", "").strip() + " ", "chosen": "good", "rejected": "bad"
    },
    "pku_saferlhf": SAFETY, "pku_saferlhf_safer": SAFETY, "pku_saferlhf_safe": SAFETY,
    "openhermes": {"instruction": "Q", "input": "", "output": "good"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "good"}]},
    "sharegpt_pairs": {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"},
    },
    "message_lists": {"messages": [ASKED, GOOD]},
    "message_pairs": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "plain_pairs": {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    "plain_text": {"text": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\ngood<|im_end|>\n"},
    "prompt_completion": {"prompt": "Q", "completion": "good"},
}  # fmt: skip


def fault(source: str, row: dict, **options) -> str:
    """Why `row` cannot be used; empty where it can."""
    try:
        formats.convert(source, row, 0, "file", options)
    except formats.Unusable as error:
        return error.reason
    return ""


@pytest.mark.parametrize("source", formats.READERS)
def test_every_source_gives_the_same_messages_for_the_same_words(source):
    """A reader that keeps a blank, a mark or a turn too many trains another text than its neighbours."""
    found = formats.convert(source, ROWS[source], 5, "file")
    plain = PAIR if formats.READERS[source].makes == "pairs" else TALK
    kind = "kind" if source == "orca_dpo_pairs" else "1" if source == "ultrachat_200k" else ""
    assert found == plain | {"kind": kind, "source": source, "row": 5}


@pytest.mark.parametrize("source", formats.READERS)
def test_a_missing_column_is_named(source):
    """Python's KeyError names neither the file nor the row; a column that only some files have is not needed."""
    known = formats.READERS[source]
    without = {column: {k: v for k, v in ROWS[source].items() if k != column} for column in known.columns}
    needed = [column for column, row in without.items() if known.lacks(row)]
    assert needed
    for column in needed:
        with pytest.raises(formats.Unusable, match=rf"file, row 3: .*'{column}' is missing") as error:
            formats.convert(source, without[column], 3, "file")
        assert error.value.reason == "missing column"


def test_an_orca_row_is_read_in_both_namings():
    """Older files name the answers by model; read by the new names alone, all 12,859 rows would be dropped."""
    old = {"system": "S", "question": "Q", "chatgpt": "good", "llama2-13b-chat": "bad"}
    assert formats.orca_dpo_pairs(old) == PAIR | {"prompt": [said("system", "S"), ASKED]}
    assert formats.orca_dpo_pairs(old | {"system": ""}) == PAIR


HH = {
    "two exchanges": (talk("Q1", "A1", "Q2", "good"), ["Q1", "A1", "Q2"], "good"),
    "blanks": ("\n\nHuman:   Q \n\n\n\nAssistant:\n good \n\n", ["Q"], "good"),
    "mark in a line": (talk("say Human: hi", "Assistant: yes"), ["say Human: hi"], "Assistant: yes"),
    "mark after one newline": (talk("Q\nHuman: hi\nAssistant: no", "good\nHuman: x"),
                               ["Q\nHuman: hi\nAssistant: no"], "good\nHuman: x"),
    "roles repeated": ("\n\nHuman: Q1\n\nHuman: Q2\n\nAssistant: good", ["Q1", "Q2"], "good"),
    "human last": (talk("Q", "good", "Q2"), ["Q"], "good\n\nHuman: Q2"),
    "empty answer": (talk("Q", ""), ["Q"], ""),
    "empty turn": (talk("", "A1", "Q2", "good"), ["", "A1", "Q2"], "good"),
    "other alphabets": (talk("Где? 在哪里\u2028", "là-bas 👋🏽"), ["Где? 在哪里"], "là-bas 👋🏽"),
}  # fmt: skip


@pytest.mark.parametrize("name", HH)
def test_an_hh_dialogue_is_split_at_its_last_assistant_mark(name):
    """Hermes-7b's script lost A1 and Q2; split at "Assistant:" alone, a turn that says the word is cut in two.

    What follows the last mark is the answer, even where a human turn follows in it: the audit judges that.
    """
    whole, prompt, answer = HH[name]
    pair = formats.hh_rlhf({"chosen": whole, "rejected": whole})
    assert [m["content"] for m in pair["prompt"]] == prompt
    assert pair["chosen"] == pair["rejected"] == [said("assistant", answer)]
    if name == "two exchanges":
        assert [m["role"] for m in pair["prompt"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (talk("Q", "A", "Q2", "good"), "prompts differ"),
        (talk("Other", "good"), "prompts differ"),
        ("Note." + talk("Q", "good"), "no dialogue"),
        (talk("Q"), "no dialogue"),
        ("", "no dialogue"),
        ("\n\nAssistant: good", "no dialogue"),
        ("\nHuman: Q\nAssistant: good", "no dialogue"),
        (["Q"], "wrong type"),
        (talk("Q", "go\0od"), "broken characters"),
        (talk("Q", "go\ud83dod"), "broken characters"),
    ],
)
def test_an_hh_row_that_is_no_pair_says_why(chosen, reason):
    """Answers to different prompts cannot be compared: DPO's formula has one prompt."""
    assert fault("hh_rlhf", {"chosen": chosen, "rejected": talk("Q", "bad")}) == reason


REWARD = {"prompt": talk("Q1", "A1", "Q2", end="\n\n"), "chosen": "Assistant: good", "rejected": " Assistant: bad\n"}


def test_a_reward_row_keeps_every_turn():
    """Its prompt ends in two newlines and its answers begin with the mark: joined the other way, a turn is lost."""
    pair = formats.rlhf_reward(REWARD)
    assert pair["prompt"] == [said("user", "Q1"), said("assistant", "A1"), said("user", "Q2")]
    assert (pair["chosen"], pair["rejected"]) == ([GOOD], [BAD])
    assert fault("rlhf_reward", REWARD | {"chosen": "Assistant: x\n\nHuman: Q3\n\nAssistant: y"}) == "prompts differ"


def test_a_reward_answer_without_its_mark_is_not_joined_to_an_earlier_turn():
    """The last mark of prompt and answer together is then A1's, and "A1 Human: Q2 good" would be trained as answer."""
    assert fault("rlhf_reward", REWARD | {"chosen": "good", "rejected": "bad"}) == "no dialogue"


def test_a_hermes_preference_row_is_a_question_or_a_dialogue():
    """Its UltraFeedback rows have no marks; its reward rows still begin with `Assistant:`."""
    row = {"source": "ultrafeedback", "prompt": "Write a play with a Human: and a robot.", "chosen": "good"}
    row["rejected"] = "Assistant: bad"
    assert formats.hermes_preference(row) == PAIR | {"prompt": [said("user", row["prompt"])]}
    longer = formats.hermes_preference(row | {"prompt": talk("Q1", "A1", "Q2", "").strip() + " "})
    assert [m["content"] for m in longer["prompt"]] == ["Q1", "A1", "Q2"]
    assert fault("hermes_preference", row | {"prompt": "Note." + talk("Q")}) == "no dialogue"


def test_a_hermes_preference_prompt_in_a_template_is_taken_apart():
    """Its UltraFeedback rows are any text: with a template left around them, they would be trained inside another."""
    row = {"source": "ultrafeedback", "chosen": " Assistant: good<|im_end|>\n", "rejected": "bad"}
    for prompt in (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "<|user|>\nQ</s>\n<|assistant|>\n",
        "<|user|>\nQ\n<|assistant|>\n", "### Instruction:\nQ\n\n### Response:\n", "Q",
    ):  # fmt: skip
        answer = row["chosen"] if "<|im_start|>" in prompt else "Assistant: good"
        assert formats.hermes_preference(row | {"prompt": prompt, "chosen": answer}) == PAIR, prompt
    apart = formats.hermes_preference(row | {"prompt": "<|system|>\nS</s>\n<|user|>\nQ</s>\n", "chosen": "good"})
    assert apart == PAIR | {"prompt": [said("system", "S"), ASKED]}
    more = "good<|im_end|>\n<|im_start|>user\nQ2"
    assert fault("hermes_preference", row | {"prompt": "Q", "chosen": more}) == "no dialogue"


FOUR = [rated("a", 5), rated("b", 8), rated("c", 8), rated("d", 3)]


def test_ultrafeedback_takes_the_best_and_the_next_lower_one():
    """Ratings 5, 8, 8, 3: best is b, the first of the 8s; second best in Hermes-7b's script is c, rated the same."""
    pair = formats.ultrafeedback({"instruction": "Q", "completions": FOUR})
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("b", "a")


def test_ultrafeedback_at_random_depends_on_the_instruction_alone():
    """Drawn anew for each run, no two runs would see the same pairs; a tie with the best is never drawn."""
    rejected = lambda i: formats.ultrafeedback({"instruction": f"Q{i}", "completions": FOUR}, "random")["rejected"]  # noqa: E731
    drawn = [rejected(i)[0]["content"] for i in range(60)]
    assert set(drawn) == {"a", "d"}
    assert drawn == [rejected(i)[0]["content"] for i in range(60)]


def test_ultrafeedback_by_aspects_is_the_mean_of_the_given_ratings():
    """x: overall 10 that should be 1 (the fault of 2023), aspects (1 + 1 + 2 + 2) / 4 = 1.5;
    y: overall 6, aspects 5, 4, N/A, 3: mean of three = 4. By overall x wins, by aspects y."""
    row = {"instruction": "Q", "completions": [rated("x", 10, "1", "1", "2", "2"), rated("y", 6, "5", "4", "N/A", "3")]}
    assert formats.ultrafeedback(row)["chosen"][0]["content"] == "x"
    assert formats.ultrafeedback(row, by="aspects")["chosen"][0]["content"] == "y"
    listed = rated("z", 1, "5", "5", "5", "5") | {"annotations": {"honesty": [{"Rating": "4.5"}]}}
    row["completions"].append(listed)  # a snapshot with lists of one
    assert formats.ultrafeedback(row, by="aspects")["chosen"][0]["content"] == "z"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((8, 8, 8), "no preference"), (("7.5", 7.5), "no preference"), ((8,), "fewer than two answers"),
        ((8, None, "N/A", ""), "fewer than two answers"), ((), "fewer than two answers"),
        ((float("nan"), 3), "fewer than two answers"), (([8], 3), "wrong type"), ((True, 3), "wrong type"),
    ],
)  # fmt: skip
def test_ultrafeedback_answers_without_a_difference_are_no_pair(scores, reason):
    """A missing rating taken for 0 would make its answer the rejected one."""
    assert fault("ultrafeedback", {"instruction": "Q", "completions": [rated("a", s) for s in scores]}) == reason


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("ultrafeedback_binarized", ("score_chosen", "score_rejected")),
        ("ultrafeedback_binarized_preferences", ("chosen_avg_rating", "rejected_avg_rating")),
    ],
)
def test_equal_ratings_are_no_preference_and_missing_ones_say_nothing(source, names):
    """An eighth of the genuine triples are ties: trained, they teach a coin's toss."""
    for both, reason in ((5.0, "no preference"), ("5", "no preference"), (None, ""), ("N/A", ""), ([5], "wrong type")):
        assert fault(source, ROWS[source] | dict.fromkeys(names, both)) == reason


def test_binarized_rows_part_at_their_last_message():
    """The user turn stands in both lists; left in, it would be trained as part of the answer."""
    row = ROWS["ultrafeedback_binarized"]
    assert fault("ultrafeedback_binarized", row | {"rejected": [said("user", "R"), BAD]}) == "prompts differ"
    assert fault("ultrafeedback_binarized", row | {"rejected": [BAD]}) == "prompts differ"
    assert fault("ultrafeedback_binarized", row | {"rejected": []}) == "no message"


NEW = SAFETY | {
    "prompt_source": "s", "response_0_source": "Alpaca-7B", "response_0_harm_category": {"Theft": True},
    "response_0_severity_level": 2, "response_0_sha256": "0", "response_1_severity_level": 0,
}  # fmt: skip
FIRST = {k: v for k, v in SAFETY.items() if not k.endswith("_id")}


@pytest.mark.parametrize("row", [FIRST, NEW], ids=["v0", "main"])
def test_the_one_safe_answer_is_chosen_in_both_schemas(row):
    """Taken by `better_response_id` (0 here), a helpful but unsafe answer would be preferred."""
    assert formats.pku_saferlhf(row) == PAIR
    other = row | {"is_response_0_safe": 1, "is_response_1_safe": "False"}
    assert formats.pku_saferlhf(other)["chosen"] == [BAD]  # response_0, whatever it is called here
    assert formats.pku_saferlhf_safe(row) == TALK


@pytest.mark.parametrize(("safe", "reason"), [(True, "both safe"), (False, "none safe"), (None, "wrong type")])
def test_without_exactly_one_safe_answer_there_is_no_safety_pair(safe, reason):
    """Two safe answers differ in something else than safety; two unsafe ones teach one of them."""
    row = SAFETY | {"is_response_0_safe": safe, "is_response_1_safe": safe}
    assert fault("pku_saferlhf", row) == reason
    assert fault("pku_saferlhf_safe", row) == ("" if safe else reason)
    if safe:  # of two safe answers the safer one, and the first where nobody says which that is
        assert formats.pku_saferlhf_safe(row) == TALK
        assert formats.pku_saferlhf_safe(row | {"safer_response_id": -1})["messages"] == [ASKED, BAD]


def test_the_safer_answer_need_not_be_safe():
    """The lesson compares both labels: two unsafe answers still have a safer one."""
    row = SAFETY | {"is_response_1_safe": False}
    assert formats.pku_saferlhf_safer(row) == PAIR
    assert formats.pku_saferlhf_safer(row | {"safer_response_id": "0"})["chosen"] == [BAD]
    for nobody in (-1, None, 0.5):
        assert fault("pku_saferlhf_safer", row | {"safer_response_id": nobody}) == "no preference"
