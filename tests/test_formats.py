"""Run alone: python -m pytest tests/test_formats.py"""

import json
import warnings
from pathlib import Path

import pytest
from test_formats_readers import ROWS, said, talk

from hermes_nb import formats
from hermes_nb.errors import DataProblem, FileProblem

ORCA = {"system": "S", "question": "Q", "chosen": "good", "rejected": "bad"}
BAD = ORCA | {"chosen": 3}


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_say_where_they_came_from(tmp_path):
    """A dropped row can only be found again by source and number; `kind` is what our own ids begin with."""
    file = write(tmp_path / "p.jsonl", ORCA, ORCA | {"id": "c-7"}, BAD, ORCA | {"id": 7})
    found = formats.read("orca_dpo_pairs", file).rows
    assert [(r["source"], r["row"], r["kind"]) for r in found] == [
        ("orca_dpo_pairs", 0, ""), ("orca_dpo_pairs", 1, "c"), ("orca_dpo_pairs", 3, ""),
    ]  # fmt: skip


def test_a_column_without_a_name_is_no_label(tmp_path):
    """pandas writes its row numbers into such a column: taken for labels, every row would be a kind of its own."""
    (tmp_path / "p.csv").write_text(",prompt,completion\n0,Q,A\n1,Q,A\n")
    assert list(formats.load("prompt_completion", tmp_path / "p.csv")["kind"]) == ["", ""]


def test_a_label_that_cannot_be_written_does_not_end_the_reading(tmp_path):
    """One id with half a character in it, and Arrow refuses the whole batch with an error that names no row."""
    file = write(tmp_path / "p.jsonl", ORCA, ORCA | {"id": "\ud83d-1"}, ORCA)
    found = formats.read("orca_dpo_pairs", file)
    assert len(found.rows) + len(found.dropped) == 3
    assert {0, 2} <= set(found.rows["row"])


def test_order_and_choice_of_rows_depend_on_the_seed_alone(tmp_path):
    """A run that cannot be repeated proves nothing."""
    file = write(tmp_path / "p.jsonl", *[ORCA | {"question": str(i)} for i in range(30)])
    take = lambda seed, limit=5: list(formats.load("orca_dpo_pairs", file, limit=limit, seed=seed)["row"])  # noqa: E731
    assert take(0) == take(0)
    assert sorted(take(0)) == list(formats.drawn(30, 5, 0))
    assert len({tuple(take(seed)) for seed in range(9)}) > 7
    assert sorted(take(3, 99)) == list(range(30)) != take(3, 99)
    assert list(formats.load("orca_dpo_pairs", file, seed=3)["row"]) == list(range(30))  # whole: in the file's order


def test_rows_are_taken_by_number_in_whatever_order_they_are_asked_for(tmp_path):
    """Asked for 3 and 1, a pass that waits for 3 first goes by 1, and a row is missing without a word."""
    file = write(tmp_path / "p.jsonl", *[ORCA] * 5)
    rows = lambda *numbers: sorted(formats.read("orca_dpo_pairs", file, numbers=numbers).rows["row"])  # noqa: E731
    assert rows(1, 3) == [1, 3]
    assert rows(3, 1) == [1, 3]
    assert rows(1, 1, 3) == [1, 3]


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [([5000], 5000), ([1, 5], 5), ([0, 0, 9, 7], 7), ([-1], -1), ([-1, 2], -1), (range(4, 6), 5)],
)
def test_a_number_that_is_not_there_is_said(numbers, missing, tmp_path):
    """Left out silently, fewer rows are trained than were drawn; -1 is no way to say "the last"."""
    file = write(tmp_path / "p.jsonl", *[ORCA] * 5)
    with pytest.raises(DataProblem, match=rf"p\.jsonl: no row {missing}; it has 5, counted from 0"):
        formats.read("orca_dpo_pairs", file, numbers=numbers)
    assert list(formats.read("orca_dpo_pairs", file, numbers=[4]).rows["row"]) == [4]


def test_unusable_rows_are_left_out_with_a_warning_that_counts_them(tmp_path):
    """Left out silently, a third of a set could be missing; raised for, one bad row of a million would end the run."""
    differing = {"chosen": talk("Q", "good"), "rejected": talk("R", "bad")}
    file = write(tmp_path / "p.jsonl", ROWS["hh_rlhf"], differing, {"chosen": ""}, differing, ROWS["hh_rlhf"])
    words = r"^p.jsonl: 5 rows in, 2 kept, dropped: 2 prompts differ, 1 missing column; formats.read gives the dropped"
    with pytest.warns(UserWarning, match=words) as told:
        assert list(formats.load("hh_rlhf", file)["row"]) == [0, 4]
    assert [Path(one.filename) for one in told] == [Path(__file__)]  # points at the caller, once
    with pytest.raises(formats.Unusable, match="p.jsonl, row 1: .*") as fault:
        formats.load("hh_rlhf", file, strict=True)
    assert fault.value.reason == "prompts differ"


def test_usable_rows_raise_nothing(tmp_path):
    """A warning at good rows is switched off, and then not there for bad ones."""
    file = write(tmp_path / "p.jsonl", ORCA, ORCA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(formats.load("orca_dpo_pairs", file)) == len(formats.load("orca_dpo_pairs", file, strict=True)) == 2
        assert formats.read("orca_dpo_pairs", write(tmp_path / "b.jsonl", ORCA, BAD)).dropped  # read gives them instead
    assert formats.read("orca_dpo_pairs", file).line() == "2 rows in, 2 kept"


def test_a_dropped_row_says_which_it_is_and_why(tmp_path):
    """A count alone cannot be mended."""
    file = write(tmp_path / "p.jsonl", ORCA, BAD, {"question": "Q\n\ud800"})
    found = formats.read("orca_dpo_pairs", file)
    assert found.line() == "3 rows in, 1 kept, dropped: 1 wrong type, 1 missing column"
    assert found.dropped == [
        {"source": "orca_dpo_pairs", "row": 1, "reason": "wrong type", "detail": "chosen holds int, not text",
         "excerpt": "system: S | question: Q | chosen: 3 | rejected: bad"},
        {"source": "orca_dpo_pairs", "row": 2, "reason": "missing column", "detail": found.dropped[1]["detail"],
         "excerpt": "question: Q \\ud800"},
    ]  # fmt: skip
    assert "'system' is missing" in found.dropped[1]["detail"]
    assert "this row has question" in found.dropped[1]["detail"]


def test_the_account_of_dropped_rows_can_be_written(tmp_path):
    """A report that repeats half a character from a column's name ends in a traceback when it is saved."""
    file = write(tmp_path / "p.jsonl", ORCA, {"\ud800": "x"}, ORCA | {"chosen": {"\ud800": "\0"}})
    for row in formats.read("orca_dpo_pairs", file).dropped:
        (row["detail"] + row["excerpt"]).encode()


def test_an_excerpt_is_one_short_line():
    """A dropped row may be as long as a book: 60 characters of each part; "a b", NUL, surrogate and blank are 6."""
    row = {"question": "a\n\n b\0\ud800 " + "x" * 10_000, "list": [1] * 10_000}
    listed = ("[" + "1, " * 30)[:60]
    assert formats.excerpt(row) == "question: a b\\x00\\ud800 " + "x" * 54 + f" | list: {listed}"
    assert formats.excerpt(row, length=9) == "question: a b\\x00\\ud800 xxx | list: [1, 1, 1,"
    assert formats.excerpt({"a": None, "b": ["c", {"d": 1}]}) == "a: None | b: ['c', {'d': 1}]"
    assert len(formats.excerpt({f"column {i}": "x" * 99 for i in range(99)})) == 480


def test_an_excerpt_is_shown_by_a_terminal_and_not_obeyed():
    """A raw row can colour, overwrite or turn around the lines of a report; letters of all alphabets stay letters."""
    row = {"a\x1b]0;title\a": "red\x1b[31m\x9b2J", "b": "\u202ebackwards\u200b", "c": "Где? 在哪里 👋🏽"}
    assert formats.excerpt(row) == (
        "a\\x1b]0;title\\x07: red\\x1b[31m\\x9b2J | b: \\u202ebackwards\\u200b | c: Где? 在哪里 👋🏽"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"system": "", "question": "Q", "chosen": "a"}, "column 'rejected' is missing"),
        (BAD, "chosen holds int, not text"), (ORCA | {"question": ["Q"]}, "question holds list, not text"),
        (ORCA | {"question": "\ud800"}, "question, character 0: lone surrogate"), (ORCA | {"system": "\0"}, "a NUL"),
        ({}, "column 'system' is missing"),
    ],
)  # fmt: skip
def test_a_file_of_which_no_row_can_be_used_is_said_with_its_first_row(row, words, tmp_path):
    """An error deep in a library, without file or row, cannot be mended; an empty set would be trained on."""
    file = write(tmp_path / "p.jsonl", row, row)
    for reading in (formats.read, formats.load):
        with pytest.raises(DataProblem, match=rf"p\.jsonl.*row 0.*{words}"):
            reading("orca_dpo_pairs", file)
    with pytest.raises(formats.Unusable, match=f"here, row 7: not as orca_dpo_pairs promises: .*{words}"):
        formats.convert("orca_dpo_pairs", row, 7, "here")


def test_a_stream_gives_every_row_once_and_the_account_behind_it(tmp_path):
    """What is looked at while it passes by is not read a second time; five usable rows by twos are 2, 2, 1."""
    file = write(tmp_path / "p.jsonl", ORCA, BAD, ORCA, ORCA, ORCA, ORCA)
    stream = formats.Stream("orca_dpo_pairs", file)
    batches = list(stream.batches(2))
    assert [[row["row"] for row in batch] for batch in batches] == [[0, 2], [3, 4], [5]]
    found = stream.done()
    assert found.rows.to_list() == sum(batches, [])
    assert [row["row"] for row in found.dropped] == [row["row"] for row in stream.dropped] == [1]
    assert stream.count() == 6


# source, variant: all ways to other columns
EMPTY = [("orca_dpo_pairs", None), ("sharegpt", None), ("orca_dpo_pairs", "neuralhermes"), ("ultrachat", "hermes"),
         ("ultrachat", "hermes_full")]  # fmt: skip


@pytest.mark.parametrize(("source", "variant"), EMPTY)
def test_where_it_is_allowed_a_file_without_a_usable_row_is_an_empty_reading(source, variant, tmp_path):
    """One source of a mixture may lose all its rows: the empty set must fit beside the full ones, columns and all."""
    good = formats.read(source, write(tmp_path / "p.jsonl", ROWS[source]), variant=variant).rows
    found = formats.Stream(source, write(tmp_path / "bad.jsonl", {}, {"x": 1}), variant=variant).done(empty=True)
    assert [row["row"] for row in found.dropped] == [0, 1]
    assert found.line() == "2 rows in, 0 kept, dropped: 2 missing column"
    assert (len(found.rows), found.rows.features) == (0, good.features)
    nothing = formats.Stream(source, write(tmp_path / "none.jsonl"), variant=variant).done(empty=True)
    assert (len(nothing.rows), nothing.rows.features, nothing.dropped) == (0, good.features, [])
    for file in ("bad.jsonl", "none.jsonl"):
        with pytest.raises(DataProblem, match=file):
            formats.Stream(source, tmp_path / file, variant=variant).done()


@pytest.mark.parametrize("split", ["test", "test_prefs", "train_prefs", "validation"])
def test_a_split_of_a_local_file_is_refused(split, tmp_path):
    """A held-out split that is read from the training file again would hold nothing out."""
    file = write(tmp_path / "p.jsonl", ORCA)
    for reading in (formats.Stream, formats.read, formats.load):
        with pytest.raises(DataProblem, match=f"orca_dpo_pairs: a local file has no splits; .*split='{split}'"):
            reading("orca_dpo_pairs", file, split)
    assert len(formats.load("orca_dpo_pairs", file, "train")) == 1


def test_what_is_out_of_reach_or_unknown_is_named(tmp_path):
    """The known sources, both places that were looked in, and the options there are."""
    file = write(tmp_path / "p.jsonl", ORCA)
    with pytest.raises(DataProblem, match="no source 'orca'; known are orca_dpo_pairs, ultrachat, ultrachat_200k"):
        formats.load("orca", file)
    for missing in ("nowhere.jsonl", tmp_path):
        with pytest.raises(FileProblem, match="no such file, neither here .* nor in data_samples"):
            formats.load("orca_dpo_pairs", missing)
    with pytest.raises(DataProblem, match="no option by='aspects'; it has none"):
        formats.load("orca_dpo_pairs", file, by="aspects")
    with pytest.raises(DataProblem, match="no option by='mean'; it has against: second or random; by: overall or"):
        formats.load("ultrafeedback", file, by="mean")


SAMPLES = {
    "pairs_train.jsonl": "orca_dpo_pairs", "conversations_train.jsonl": "ultrachat_200k", "hh_rlhf.jsonl": "hh_rlhf",
    "pku_saferlhf.jsonl": "pku_saferlhf", "ultrafeedback_binarized.jsonl": "ultrafeedback_binarized",
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_source_of_a_shipped_file_is_detected(name):
    """Users do not know what their file's schema is called."""
    assert formats.detect(name) == SAMPLES[name]
    assert len(formats.read(SAMPLES[name], name).rows) > 0


@pytest.mark.parametrize("source", [name for name in formats.READERS if not name.startswith("pku_saferlhf_")])
def test_every_source_is_detected_by_its_rows(source, tmp_path):
    """`chosen` and `rejected` are all of hh-rlhf and part of nine other sources; `prompt` in front of them is in four.

    A file is of the source whose reader can read it, and of the one with the likest columns among several.
    """
    row = ROWS[source]
    assert formats.detect(write(tmp_path / "p.jsonl", row)) == source
    bare = {column: row[column] for column in formats.READERS[source].columns}
    assert formats.detect(write(tmp_path / "p.jsonl", bare)) == source


@pytest.mark.parametrize("source", [name for name in formats.READERS if not name.startswith("pku_saferlhf_")])
def test_one_broken_row_does_not_change_what_a_file_is(source, tmp_path):
    """A reader that asks for less reads the broken row too: taken for it, a file of pairs would lose its answers, and
    rated pairs their ties, for one row in twenty."""
    row = ROWS[source]
    for column in formats.READERS[source].columns:
        assert formats.detect(write(tmp_path / "p.jsonl", row | {column: 3}, *[row] * 19)) == source, column


@pytest.mark.parametrize("source", [name for name in formats.READERS if not name.startswith("pku_saferlhf_")])
def test_an_odd_first_row_does_not_change_what_a_file_is(source, tmp_path):
    """A header written as a row, or a row of another set, stands first; the 19 below it say what the file is."""
    other = "plain_text" if source == "ultrachat" else "ultrachat"
    for odd in ({"question_id": 81}, {}, ROWS[other]):
        assert formats.detect(write(tmp_path / "p.jsonl", odd, *[ROWS[source]] * 19)) == source, odd


def test_columns_that_fit_no_source_are_said_with_the_nearest(tmp_path):
    """What is missing tells the user which column to rename."""
    file = write(tmp_path / "odd.jsonl", {"system": "", "question": "Q", "chosen": "a"})
    with pytest.raises(DataProblem, match="odd.jsonl: columns system, .* orca_dpo_pairs comes nearest and misses rej"):
        formats.detect(file)
    file = write(tmp_path / "odd.jsonl", {"instruction": "Q", "output": "A"})
    with pytest.raises(DataProblem, match="openhermes comes nearest and misses input"):
        formats.detect(file)


@pytest.mark.parametrize(
    ("odd", "row", "words"),
    [
        ({"question_id": 81}, {"instruction": "Q", "output": "A"}, "openhermes comes nearest and misses input"),
        ({"question_id": 81}, {"data": [3]}, "columns are those of ultrachat, but .*wrong type"),
    ],
)  # fmt: skip
def test_an_odd_first_row_is_not_what_an_error_speaks_of(odd, row, words, tmp_path):
    """Told that no source has any of the columns, the user looks for another file instead of a column to rename."""
    with pytest.raises(DataProblem, match=words):
        formats.detect(write(tmp_path / "p.jsonl", odd, *[row] * 19))


def test_a_columns_name_is_shown_and_not_obeyed(tmp_path):
    """The names come from the file: a control character in one would act on the terminal that shows the error."""
    for columns in ({"a\x1b[31m\u202e": 1}, {"system": "", "question": "", "chosen": "", "a\x1b[31m\u202e\ud800": 1}):
        with pytest.raises(DataProblem, match=r"a\\x1b\[31m\\u202e") as error:
            formats.detect(write(tmp_path / "p.jsonl", columns))
        assert str(error.value).isprintable()


def test_no_source_is_called_near_that_shares_no_column(tmp_path):
    """Told that orca_dpo_pairs comes nearest to a file of wholly other columns, a user looks for what is not there."""
    with pytest.raises(DataProblem, match="fit no known source") as error:
        formats.detect(write(tmp_path / "odd.jsonl", {"question_id": 81, "turns": ["Q"], "category": "writing"}))
    assert "orca_dpo_pairs comes nearest" not in str(error.value)


def test_rows_with_the_right_columns_and_the_wrong_values_say_why(tmp_path):
    """The columns alone would name a source whose reader drops every row."""
    file = write(tmp_path / "p.jsonl", {"data": [3]})
    with pytest.raises(DataProblem, match="columns are those of ultrachat, but its first rows do not .*wrong type"):
        formats.detect(file)


def test_read_messages_are_detected_as_such(tmp_path):
    """What was read once, and saved, is a source again: pairs and conversations of messages."""
    for source, name in (("orca_dpo_pairs", "message_pairs"), ("openhermes", "message_lists")):
        rows = formats.load(source, write(tmp_path / "p.jsonl", ROWS[source]))
        rows.to_json(tmp_path / "saved.jsonl")
        assert formats.detect(tmp_path / "saved.jsonl") == name
        again = formats.load(name, tmp_path / "saved.jsonl")
        assert [m for key in ("prompt", "messages") if key in again.features for m in again[key][0]][0] == said(
            "user", "Q"
        )
