"""Run alone: python -m pytest tests/test_formats_hostile.py

Every reader and every published variant against 10,000 hostile rows: a good row with a hostile value in one or two of
its places, however deep, with a place missing, or made of nothing but such values.
"""

import itertools
import json

import pyarrow
import pytest
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st
from test_formats_readers import ROWS

from hermes_nb import formats
from hermes_nb.formats import as_published, loading, stored

ROWS_EACH, EXAMPLES = 20, 14  # 36 ways to read x 14 examples x 20 rows = 10,080
SETTINGS = settings(
    deadline=None,  # a busy machine is no defect
    max_examples=EXAMPLES,
    derandomize=True,  # the same rows each time: a failure can be repeated
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    verbosity=Verbosity.quiet,  # twenty rows, some of them huge; the message names the one
    report_multiple_bugs=False,
)

MARKS = [
    "\n\nHuman:", "\n\nAssistant:", "Human: ", "Assistant: ", "<|im_start|>", "<|im_start|>user\n", "<|im_end|>",
    "<|im_start|>assistant\n", "<|system|>\n", "<|user|>\n", "<|assistant|>\n", "<|assitant|>", "</s>", "<s>", "[INST]",
    "### Instruction:\n", "### Input:\n", "### Response:\n", "### Human:", "N/A", "None", "True", "1e999", "nan", "-0",
    "\n", "\r\n", " ", "a", "\0", "\ud800", "\udfff\ud800", "\u2028", "\ufeff", "\x85", "\u202e", "e\u0301",
    "👩\u200d👧", "\U0010ffff",
]  # fmt: skip
everything = st.characters(exclude_categories=())  # all of Unicode, surrogates and NUL too
texts = st.one_of(
    st.lists(st.sampled_from(MARKS), max_size=8).map("".join), st.text(everything, max_size=12), st.sampled_from(MARKS)
)
HUGE = [
    "x" * 200_000, "\n\nHuman:" * 9000, "### Input:\n" * 5000, "\ud800" * 1000, "[" * 9999, [[]] * 3000, [""] * 3000,
    {str(i): i for i in range(999)}, 10**400, -(10**4000), 2**63, 1e308, 5e-324,
    json.loads("[" * 200 + "]" * 200), json.loads('{"a":' * 200 + "1" + "}" * 200),
]  # fmt: skip
BROKEN = ["\ud800", "\0", "a-\udfff", "\ud83d-1", "\udc00" * 99]
plain = st.none() | st.booleans() | st.integers(-2, 11) | st.floats() | texts
message = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("role", "from"), st.sampled_from(["user", "gpt", "system", "tool", "", 1, None]))
    | dict.fromkeys(("content", "value"), plain),
)  # fmt: skip
completion = st.fixed_dictionaries(
    {}, optional={"response": plain, "overall_score": plain, "annotations": st.dictionaries(
        st.sampled_from(["honesty", "helpfulness"]), st.dictionaries(st.just("Rating"), plain), max_size=2)},
)  # fmt: skip
hostile = st.one_of(
    plain, texts, st.sampled_from(HUGE), st.lists(message, max_size=3), st.lists(completion, max_size=3),
    st.lists(plain, max_size=3), st.dictionaries(texts, plain, max_size=2), message,
)  # fmt: skip

WAYS = [
    *((source, None, dict(zip(known.options, choice, strict=True)))
      for source, known in formats.READERS.items() for choice in itertools.product(*known.options.values())),
    *((source, system, {}) for system, source in formats.VARIANTS),
]  # fmt: skip


def name(way) -> str:
    return "-".join([way[0], *filter(None, way[1:2]), *way[2].values()])


def places(value, at: tuple = ()) -> list[tuple]:
    """Every place in a row: its columns, and the items and keys within them."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(*at, key), *places(value[key], (*at, key))]]


def put(row, place: tuple, value, gone: bool = False):
    """A copy of `row` with `value` at `place`, or with nothing there."""
    copy = dict(row) if isinstance(row, dict) else list(row)
    key, *rest = place
    if rest:
        copy[key] = put(copy[key], tuple(rest), value, gone)
    elif gone:
        del copy[key]
    else:
        copy[key] = value
    return copy


def cut(value, keep: int):
    """A copy in which no list, however deep, has more than `keep` items: the last ones stay."""
    if isinstance(value, list):
        return [cut(item, keep) for item in value[len(value) - min(keep, len(value)) :]]
    return {key: cut(item, keep) for key, item in value.items()} if isinstance(value, dict) else value


@st.composite
def rows(draw, source: str) -> list[dict]:
    """ROWS_EACH hostile rows of a source."""
    base = ROWS[source]
    where = places(base)
    values = [*draw(st.lists(hostile, min_size=4, max_size=4)), draw(st.sampled_from(BROKEN))]
    begin = draw(st.integers(0, len(where) - 1))
    column = draw(st.sampled_from(["", "id", "prompt_id", "metadata"]) | st.text(everything, max_size=3))
    found = [put(base, where[(begin + 7 * i) % len(where)], values[i % 5]) for i in range(ROWS_EACH - 7)]
    found += [cut(base, 0), cut(base, 1)]
    twice = put(base, where[begin], values[0])
    second = (where[begin][0], *where[begin - 1][1:]) if where[begin - 1][0] == where[begin][0] else where[begin - 1]
    found.append(twice if second[: len(where[begin])] == where[begin] or where[begin][: len(second)] == second
                 else put(twice, second, values[1]))  # fmt: skip
    found.append(put(base, where[begin], None, gone=True) | {f"{column}{values[4]}": 1})
    found.append({name: values[i % 5] for i, name in enumerate(base)})
    found.append(base | {column: values[begin % 5]})
    found.append(dict.fromkeys([*base, column], values[3]))
    return found


def known(source: str, system: str | None):
    return as_published.reader(source, system) if system else formats.reader(source)


def check_row(out: dict) -> None:
    """Fails where a converted row is not messages or texts that a file and a tokenizer can take."""
    for part in out.keys() - {"kind", "source", "row"}:
        said = [{"content": out[part]}] if isinstance(out[part], str) else out[part]
        for message in said:
            assert isinstance(message["content"], str)
            assert "\0" not in message["content"]
            assert message.get("role", "user") in ("system", "user", "assistant")
    table = pyarrow.Table.from_pylist([out], schema=stored.schema(out))  # no lone surrogate, in `kind` neither
    assert table.to_pylist() == [out]


def outcome(way: tuple, row: dict, number: int) -> str:
    """The reason for which a row is dropped, empty where it is kept; fails, naming row and error, on anything else."""
    source, system, options = way
    try:
        if system:
            check_row(loading.converted(known(source, system), source, row, number, options))
        else:
            check_row(formats.convert(source, row, number, "here", options))
    except formats.Unusable as fault:
        named = system or f"here, row {number}: not as {source} promises" in fault.detail
        return fault.reason if named else f"no row named in {fault.detail:.200}"
    except Exception as error:
        pytest.fail(f"{formats.excerpt(row)}: {type(error).__name__} {error!r:.200}", pytrace=False)
    return ""


def test_there_are_ten_thousand_hostile_rows():
    """Fewer ways, examples or rows, and "every reader" would quietly become a few."""
    assert {source for source, system, _ in WAYS if system is None} == {*formats.READERS}
    assert {(system, source) for source, system, _ in WAYS if system} == {*formats.VARIANTS}
    assert len(WAYS) * EXAMPLES * ROWS_EACH >= 10_000


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_a_hostile_row_ends_in_messages_or_in_a_reason(way):
    """One row of a million ends a night's run with a traceback that names neither file nor row."""
    seen = set()

    @SETTINGS
    @given(rows(way[0]))
    def read(made):
        assert len(made) == ROWS_EACH
        for number, row in enumerate(made):
            seen.add(outcome(way, row, number))
            assert len(formats.excerpt(row)) <= 8 * 60

    read()
    assert seen <= {"", *formats.UNUSABLE}
    assert len(seen) > 2, "rows that are all of one kind try nothing"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "rows.jsonl"


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_every_row_of_a_hostile_file_is_kept_or_dropped_with_a_reason(way, file):
    """A row that leaves silently is missed by nobody until the counts of a report do not add up."""
    source, system, options = way

    @SETTINGS
    @given(rows(source))
    def read(made):
        file.write_text("".join(json.dumps(row) + "\n" for row in made))
        stream = formats.Stream(source, file, variant=system, **options)
        kept = [row["row"] for batch in stream.batches(8) for row in batch]
        numbers = sorted(kept + [row["row"] for row in stream.dropped])
        assert numbers == list(range(len(made)))
        assert {row["source"] for row in stream.dropped} <= {source}
        assert {row["reason"] for row in stream.dropped} <= {*formats.UNUSABLE}
        for row in stream.dropped:
            assert len(row["detail"]) < 1000
            (row["detail"] + row["excerpt"]).encode()  # what goes into a report can be written

    read()
