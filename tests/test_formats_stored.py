"""Run alone: python -m pytest tests/test_formats_stored.py"""

import json
import tracemalloc

import pytest
from test_formats_readers import ROWS

from hermes_nb import formats
from hermes_nb.errors import DataProblem
from hermes_nb.formats import loading, stored

ORCA = ROWS["orca_dpo_pairs"]


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Every file counts as large; the store lies in a folder of this test, which is returned."""
    monkeypatch.setattr(stored, "SMALL", 0)
    monkeypatch.setenv("HERMES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def file(tmp_path):
    """Nine rows, of which 2 and 5 cannot be used."""
    rows = [ORCA | {"question": f"Где {i}? 👋🏽"} for i in range(9)]
    rows[2], rows[5] = {"question": "\ud800", "\ud800": "x"}, rows[5] | {"chosen": ["not text", "\ud800"]}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "p.jsonl"


def key(source="orca_dpo_pairs", *where, **how) -> str:
    return formats.Stream(source, *where, **how).store.key


def nothing_is_read(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(loading, "raw_rows", refuse)


def test_the_second_reading_comes_from_the_store_and_is_the_same(large, file, monkeypatch):
    """Read anew, a large file costs minutes each time; read from the store, not a row or a reason may be missing."""
    first = formats.read("orca_dpo_pairs", file)
    nothing_is_read(monkeypatch)
    second = formats.read("orca_dpo_pairs", file)
    assert second.rows.to_list() == first.rows.to_list()
    assert second.rows.features == first.rows.features
    assert second.dropped == first.dropped
    assert [row["row"] for row in second.dropped] == [2, 5]
    assert second.line() == first.line()


def test_what_is_stored_is_what_is_read_from_a_small_file(large, file, monkeypatch):
    """The way to the store must not change a row: empty lists, blanks and all alphabets come back."""
    kept = formats.read("orca_dpo_pairs", file)
    monkeypatch.setattr(stored, "SMALL", 1 << 40)
    fresh = formats.read("orca_dpo_pairs", file)
    assert (kept.rows.to_list(), kept.dropped) == (fresh.rows.to_list(), fresh.dropped)


def test_a_small_file_is_not_stored(large, file, monkeypatch):
    """A cache of thousands of small files is slower than reading them. The limit itself counts as large."""
    monkeypatch.setattr(stored, "SMALL", file.stat().st_size + 1)
    formats.read("orca_dpo_pairs", file)
    assert not large.exists()
    monkeypatch.setattr(stored, "SMALL", file.stat().st_size)
    formats.read("orca_dpo_pairs", file)
    assert len(list(large.iterdir())) == 1


def test_a_small_file_has_a_key_and_no_folder(large, file, monkeypatch):
    """What is counted or audited is kept by the same key: without one, a small file would be measured each time."""
    kept = formats.Stream("orca_dpo_pairs", file).store
    monkeypatch.setattr(stored, "SMALL", file.stat().st_size + 1)
    small = formats.Stream("orca_dpo_pairs", file).store
    assert small.key == kept.key
    assert (small.folder, kept.folder) == (None, large / kept.key)
    file.write_bytes(file.read_bytes().replace(b"good", b"Good", 1))
    assert key("orca_dpo_pairs", file) != small.key


def test_every_thing_that_changes_the_rows_changes_the_key(large, file, tmp_path, monkeypatch):
    """Found again by a key that leaves one of them out, rows of another file or reader would be trained."""
    plain = key("orca_dpo_pairs", file)
    keys = [plain, key("orca_dpo_pairs", file, numbers=[0, 1]), key("orca_dpo_pairs", file, numbers=[0, 2]),
            key("orca_dpo_pairs", file, numbers=[]), key("orca_dpo_pairs", file, variant="neuralhermes"),
            key("orca_dpo_pairs", file, variant="dpopenhermes"), key("plain_pairs", file),
            key("ultrafeedback", file), key("ultrafeedback", file, by="aspects"),
            key("ultrafeedback", file, against="random")]  # fmt: skip
    other = tmp_path / "other.jsonl"
    other.write_bytes(file.read_bytes().replace(b"good", b"Good", 1))
    keys.append(key("orca_dpo_pairs", other))
    monkeypatch.setattr(stored, "code_key", lambda *rooms: "mended")
    keys.append(key("orca_dpo_pairs", file))
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    monkeypatch.setattr(stored, "SMALL", 0)
    assert key("orca_dpo_pairs", file) == plain


def test_the_same_content_is_found_under_another_name(large, file, tmp_path, monkeypatch):
    """Moved or fetched again, a file is still what it was."""
    first = formats.read("orca_dpo_pairs", file)
    moved = tmp_path / "moved.jsonl"
    file.rename(moved)
    nothing_is_read(monkeypatch)
    assert formats.read("orca_dpo_pairs", moved).rows.to_list() == first.rows.to_list()


def test_a_mended_reader_is_never_answered_by_an_old_result(large, file, monkeypatch):
    """`code_key` is the digest of the rooms' source: other rooms, another digest; a changed byte, another digest."""
    assert formats.code_key("formats") == formats.code_key("formats") != formats.code_key("formats", "templates")
    formats.read("orca_dpo_pairs", file)
    monkeypatch.setattr(stored, "code_key", lambda *rooms: "mended")
    nothing_is_read(monkeypatch)
    with pytest.raises(AssertionError, match="read again"):
        formats.read("orca_dpo_pairs", file)


def test_the_code_key_follows_the_code(tmp_path, monkeypatch):
    """A digest of the names alone would never change."""
    room = tmp_path / "formats"
    room.mkdir()
    monkeypatch.setattr(stored, "__file__", str(room / "stored.py"))
    digests = []
    for content in ("a = 1", "a = 2", "a = 1"):
        (room / "readers.py").write_text(content)
        digests.append(stored.code_key.__wrapped__("formats"))
    (room / "notes.txt").write_text("no code")
    assert stored.code_key.__wrapped__("formats") == digests[0] == digests[2] != digests[1]


def test_options_in_another_order_are_the_same_question(large, file):
    """The order of two words is no reason to read a file again."""
    both = {"by": "aspects", "against": "random"}
    assert key("ultrafeedback", file, **both) == key("ultrafeedback", file, **dict(reversed(both.items())))


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_reading_that_fails_half_way_leaves_nothing_half_written(large, file, error, monkeypatch):
    """Taken for the whole, the first half of a file would be trained for ever after."""
    read = loading.converted

    def fail(known, source, row, number, options):
        if number == 6:
            raise error
        return read(known, source, row, number, options)

    monkeypatch.setattr(loading, "converted", fail)
    stream = formats.Stream("orca_dpo_pairs", file)
    with pytest.raises(type(error)):
        list(stream.batches(2))
    assert list(large.iterdir()) == []
    monkeypatch.setattr(loading, "converted", read)
    assert len(formats.read("orca_dpo_pairs", file).rows) == 7


def test_a_stream_that_is_left_half_way_leaves_nothing_and_is_read_whole_later(large, file):
    """Whoever looks at the first rows and turns away must not decide what the next reader gets."""
    batches = formats.Stream("orca_dpo_pairs", file).batches(2)
    next(batches)
    batches.close()
    assert list(large.iterdir()) == []
    assert len(formats.read("orca_dpo_pairs", file).rows) == 7


def test_a_folder_without_its_account_is_not_taken_for_a_result(large, file):
    """A machine that was switched off may leave a folder behind; only the account, written last, makes it whole."""
    formats.read("orca_dpo_pairs", file)
    (large / key("orca_dpo_pairs", file) / "dropped.json").unlink()
    assert not formats.Stream("orca_dpo_pairs", file).store.ready
    assert len(formats.read("orca_dpo_pairs", file).rows) == 7


def test_two_readers_of_one_file_do_not_disturb_each_other(large, file):
    """Two notebooks start at once; the second writes the same rows again while the first still reads its own."""
    streams = [formats.Stream("orca_dpo_pairs", file) for _ in range(2)]
    iterators = [stream.batches(3) for stream in streams]
    mixed = [batch for both in zip(*iterators, strict=True) for batch in both]
    assert mixed[::2] == mixed[1::2]
    readings = [stream.done() for stream in streams]
    assert readings[0].rows.to_list() == readings[1].rows.to_list() == sum(mixed[::2], [])
    assert len(list(large.iterdir())) == 1


def test_a_file_of_which_no_row_can_be_used_says_so_each_time(large, tmp_path):
    """The store holds no rows then; the second reading must not fail in another way."""
    (tmp_path / "p.jsonl").write_text('{"question": "Q"}\n')
    for _ in range(2):
        with pytest.raises(DataProblem, match="p.jsonl.* missing"):
            formats.read("orca_dpo_pairs", tmp_path / "p.jsonl")


@pytest.mark.parametrize("source", ["orca_dpo_pairs", "ultrachat"])
def test_an_empty_reading_is_the_same_from_the_store(source, large, tmp_path, monkeypatch):
    """No row was written, so nothing in the store says what the columns are."""
    (tmp_path / "p.jsonl").write_text('{"x": 1}\n')
    first = formats.Stream(source, tmp_path / "p.jsonl").done(empty=True)
    nothing_is_read(monkeypatch)
    again = formats.Stream(source, tmp_path / "p.jsonl")
    assert (list(again.batches()), again.store.ready) == ([], True)
    second = again.done(empty=True)
    assert (second.rows.features, second.dropped) == (first.rows.features, first.dropped)
    part = "prompt" if source == "orca_dpo_pairs" else "messages"
    assert part in second.rows.features
    assert [row["reason"] for row in second.dropped] == ["missing column"]


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "in memory"])
def test_batches_are_as_large_as_asked_and_the_same_each_time(large, file, kept, monkeypatch):
    """Seven usable rows by threes: 3, 3, 1, from the file and from the store, whatever a batch on disk may hold."""
    monkeypatch.setattr(stored, "SMALL", 0 if kept else 1 << 40)
    monkeypatch.setattr(stored, "BATCH_CHARACTERS", 30)  # a row says 15 characters: three do not fit
    stream = formats.Stream("orca_dpo_pairs", file)
    first = list(stream.batches(3))
    assert [len(batch) for batch in first] == [3, 3, 1]
    again = [row for batch in stream.batches(3) for row in batch]
    assert again == [row for batch in first for row in batch]
    assert all(len(batch) <= 3 for batch in stream.batches(3))
    assert [row["row"] for row in stream.dropped] == [2, 5]
    assert formats.read("orca_dpo_pairs", file).rows.to_list() == again


def test_a_batch_is_cut_before_an_arrow_array_is_full(monkeypatch):
    """Arrow's texts end at 2 GB an array: lengths 4, 4, 9, 1 with room for 8 make [4, 4], [9], [1]."""
    monkeypatch.setattr(stored, "BATCH_CHARACTERS", 8)
    rows = [{"text": "x" * length} for length in (4, 4, 9, 1)]
    assert [[len(row["text"]) for row in part] for part in stored._cut(rows)] == [[4, 4], [9], [1]]
    assert stored._length([{"role": "user", "content": "five!"}, {"role": "user", "content": "more"}]) == 9


def test_memory_stays_flat_while_a_file_passes_by(large, file, tmp_path):
    """12 MB of rows in batches of 8 (80 kB each): held as a whole they would take over 12 MB; under 4 MB is flat."""
    formats.read("orca_dpo_pairs", file)  # what is imported on the way is not what is measured
    with open(tmp_path / "long.jsonl", "w") as out:
        out.writelines(json.dumps(ORCA | {"chosen": f"{i} " + "x" * 10_000}) + "\n" for i in range(1200))
    stream = formats.Stream("orca_dpo_pairs", tmp_path / "long.jsonl")
    for passes in ("from the file", "from the store"):
        assert stream.store.ready == (passes == "from the store")
        tracemalloc.start()
        assert sum(len(batch) for batch in stream.batches(8)) == 1200
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000, passes


def test_every_shape_of_row_can_be_stored(large, tmp_path):
    """Pairs, conversations and the rendered texts of the variants have other columns each."""
    for source, row in ROWS.items():
        (tmp_path / "p.jsonl").write_text(json.dumps(row))
        for system in [None, *(name for name, of in formats.VARIANTS if of == source)]:
            written = formats.read(source, tmp_path / "p.jsonl", variant=system).rows.to_list()
            assert formats.read(source, tmp_path / "p.jsonl", variant=system).rows.to_list() == written
            assert len(written) == 1
