"""Run alone: python -m pytest tests/test_formats_mixtures.py"""

import json
import random
from dataclasses import replace

import datasets
import numpy as np
import pytest
from test_formats_readers import ROWS, rated, talk

from hermes_nb import formats, recipes
from hermes_nb.errors import DataProblem, RecipeProblem
from hermes_nb.formats import mixtures
from hermes_nb.recipes import Source


@pytest.fixture
def part(tmp_path):
    """Makes a source of `count` rows of a schema in a file, with the questions NAME0, NAME1, ..."""

    def make(count: int, name: str = "q", source: str = "orca_dpo_pairs", **how) -> Source:
        column = {"openhermes": "instruction", "prompt_completion": "prompt"}.get(source, "question")
        rows = [ROWS[source] | {column: f"{name}{i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Source(source, str(tmp_path / f"{name}.jsonl"), **how)

    return make


def asked(rows) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows]


def test_a_share_of_the_source_takes_the_first_rows_or_draws_them(part):
    """alignment-handbook's weight: int(0.5 * 7) = 3 rows; its old mixer took the first, its new one shuffles before."""
    first = mixtures.read_mixture([part(7, share_of_source=0.5, take="first")], seed=3)
    assert sorted(first.rows["row"]) == [0, 1, 2]
    drawn = [tuple(sorted(formats.mixture([part(7, share_of_source=0.5)], seed)["row"])) for seed in range(8)]
    assert {len(set(rows)) for rows in drawn} == {3}
    assert len(set(drawn)) > 2
    assert drawn == [tuple(sorted(formats.mixture([part(7, share_of_source=0.5)], seed)["row"])) for seed in range(8)]


# counts, shares, rows taken
SHARES = [
    # weights 1/2 and 1/2; the largest mixture is min(100 / 0.5, 60 / 0.5) = 120 rows: 60 and 60
    ((100, 60), (0.5, 0.5), [60, 60]),
    # the same shares, not summing to one: normalised
    ((100, 60), (0.2, 0.2), [60, 60]),
    # min(100 / 0.7, 60 / 0.3) = min(142.86, 200) = 142.86; 0.7 * 142.86 = 100, 0.3 * 142.86 = 42.86
    ((100, 60), (0.7, 0.3), [100, 43]),
    # 1 : 3 of 10 and 12 rows: min(10 / 0.25, 12 / 0.75) = 16; 4 and 12
    ((10, 12), (0.25, 0.75), [4, 12]),
    # three parts of 5, 50, 500 rows, all the same: min(15, 150, 1500) = 15, five of each
    ((5, 50, 500), (1, 1, 1), [5, 5, 5]),
    # one part alone has a share of one, whatever is said
    ((9,), (0.3,), [9]),
]


@pytest.mark.parametrize(("counts", "shares", "taken"), SHARES)
def test_a_share_of_the_mixture_takes_no_row_twice(counts, shares, taken):
    """TRL's weight: taken for a share of the source, 0.7 and 0.3 of 100 and 60 rows would be 70 and 18."""
    parts = [Source("orca_dpo_pairs", share_of_mixture=share) for share in shares]
    assert mixtures.sizes(parts, list(counts)) == taken


def test_shares_of_the_mixture_are_those_of_trl(monkeypatch):
    """Two hundred mixtures sized by TRL 1.16's own get_dataset and by ours: the same rule, round(weight * total)."""
    from trl.scripts.utils import DatasetConfig, DatasetMixtureConfig, get_dataset

    draw = random.Random(0)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, **_: datasets.Dataset.from_dict({"x": [path] * int(path)})
    )
    for _ in range(200):
        counts = [draw.randrange(1, 60) for _ in range(draw.randrange(1, 4))]
        shares = [round(draw.uniform(0.01, 1), 2) for _ in counts]
        config = [DatasetConfig(path=str(n), fraction=share) for n, share in zip(counts, shares, strict=True)]
        theirs = len(get_dataset(DatasetMixtureConfig(datasets=config))["train"])
        ours = mixtures.sizes([Source("hh_rlhf", share_of_mixture=share) for share in shares], counts)
        assert sum(ours) == theirs
        assert all(0 <= size <= count for size, count in zip(ours, counts, strict=True))


def test_the_three_meanings_of_a_half_are_three_mixtures(part):
    """8 and 4 rows with 0.5 each: of the sources 4 and 2; of the mixture 4 and 4; as counts what is asked."""
    counted = lambda **how: sorted(asked(formats.mixture([part(8, "a", **how), part(4, "b", **how)])))  # noqa: E731
    letters = lambda found: (sum("a" in q for q in found), sum("b" in q for q in found))  # noqa: E731
    assert letters(counted(share_of_source=0.5)) == (4, 2)
    assert letters(counted(share_of_mixture=0.5)) == (4, 4)
    assert letters(counted(limit=3)) == (3, 3)
    assert letters(counted(limit=5)) == (5, 4)  # at most all
    assert letters(counted()) == (8, 4)
    assert letters(counted(share_of_mixture=0.5, take="first")) == (4, 4)


def test_one_part_with_a_share_of_the_mixture_among_others_is_refused(part):
    """The rest of the mixture would have no share: nobody can say how large it is."""
    with pytest.raises(DataProblem, match="for every source of the mixture, or for none"):
        formats.mixture([part(4, "a", share_of_mixture=0.5), part(4, "b")])


def test_the_order_of_a_mixture_depends_on_its_seed_alone(part, tmp_path):
    """A run that cannot be repeated proves nothing: neither the clock, other draws, nor the files' names may count."""
    order = lambda seed, *names: asked(formats.mixture([part(20, "a", limit=9), part(20, "b")], seed))  # noqa: E731
    first = order(1)
    random.seed(99)
    np.random.seed(99)
    assert order(1) == first
    assert order(2) != first
    assert first != sorted(first)  # sources stand mixed, not one after the other
    parts = [part(20, "a", limit=9), part(20, "b")]
    moved = [replace(one, path=one.path.replace(".jsonl", " moved.jsonl")) for one in parts]
    for one, other in zip(parts, moved, strict=True):
        (tmp_path / other.path).write_bytes((tmp_path / one.path).read_bytes())
    assert asked(formats.mixture(moved, 1)) == first


def test_drawn_numbers_are_rising_different_and_fair():
    """Rows are taken in one pass, so numbers must rise; a number drawn twice would train a row twice."""
    for count, limit in ((10, 4), (10, 10), (10, 99), (3, 0), (3, -1), (0, 5)):
        found = list(formats.drawn(count, limit, 7))
        assert found == sorted(set(found))
        assert len(found) == max(0, min(limit, count))
        assert all(0 <= number < count for number in found)
    often = np.bincount(np.concatenate([formats.drawn(10, 3, seed) for seed in range(2000)]), minlength=10)
    assert often.min() > 500  # 600 expected each, standard deviation 20.5
    assert often.max() < 700


class Row(dict):
    """A raw row that knows how many there are at once."""

    alive = most = made = 0

    def __init__(self, *given):
        super().__init__(*given)
        Row.alive += 1
        Row.made += 1
        Row.most = max(Row.most, Row.alive)

    def __del__(self):
        Row.alive -= 1


def test_a_sample_of_a_long_stream_holds_none_of_its_rows(monkeypatch, tmp_path):
    """30 of 5,000 rows are drawn in one pass, each gone before the next comes: memory need not hold the set."""
    Row.most = Row.made = Row.alive
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(formats.loading.Hub, "count", lambda self: 5000)
    stream = lambda *_, **__: (Row(ROWS["orca_dpo_pairs"]) for _ in range(5000))  # noqa: E731
    monkeypatch.setattr(datasets, "load_dataset", stream)
    found = formats.load("orca_dpo_pairs", limit=30, seed=4)
    assert sorted(found["row"]) == list(formats.drawn(5000, 30, 4))
    assert max(found["row"]) < Row.made <= 5000
    assert Row.most <= 5


def test_hermes_preference_is_rebuilt_from_its_three_sources(tmp_path):
    """The published file has lost turns that nothing brings back: its sources have them."""
    rows = {
        "ultrafeedback": [{"instruction": "U", "completions": [rated("x", 5), rated("y", 8), rated("z", 8)]}],
        "hh_rlhf": [{side: talk("Q1", "A1", "Q2", side) for side in ("chosen", "rejected")}] * 3,
        "rlhf_reward": [ROWS["rlhf_reward"]] * 2 + [ROWS["rlhf_reward"] | {"chosen": "\ud800"}],
    }
    for source, content in rows.items():
        (tmp_path / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    assert [(one.source, one.limit) for one in formats.HERMES_PREFERENCE] == [
        ("ultrafeedback", None), ("hh_rlhf", 50_000), ("rlhf_reward", None),
    ]  # fmt: skip
    parts = [replace(one, path=str(tmp_path / f"{one.source}.jsonl")) for one in formats.HERMES_PREFERENCE]
    found = formats.read_mixture(parts, 42)
    assert sorted(zip(found.rows["source"], found.rows["row"], strict=True)) == [
        ("hh_rlhf", 0), ("hh_rlhf", 1), ("hh_rlhf", 2), ("rlhf_reward", 0), ("rlhf_reward", 1), ("ultrafeedback", 0),
    ]  # fmt: skip
    assert [(row["source"], row["row"], row["reason"]) for row in found.dropped] == [
        ("rlhf_reward", 2, "broken characters")
    ]
    said = {
        row["source"]: [m["content"] for m in (*row["prompt"], *row["chosen"], *row["rejected"])] for row in found.rows
    }
    assert said["hh_rlhf"] == ["Q1", "A1", "Q2", "chosen", "rejected"]
    assert said["ultrafeedback"] == ["U", "y", "x"]


def test_the_variant_and_options_of_a_part_are_its_readers(part):
    """A recipe that names a published defect must train on that defect."""
    rows = formats.mixture([part(2, variant="neuralhermes")])
    assert rows["chosen"][0] == "good<|im_end|>\n"
    with pytest.raises(DataProblem, match="no option against='third'"):
        formats.mixture([replace(part(2), source="ultrafeedback", options={"against": "third"})])


@pytest.mark.parametrize("other", [{"source": "prompt_completion"}, {"variant": "neuralhermes"}])
def test_rows_of_two_shapes_make_no_mixture(part, other):
    """Pairs beside conversations or rendered texts: each row would lack what the other has, and train on nothing."""
    with pytest.raises(DataProblem):
        formats.mixture([part(3, "a"), part(3, "b", **other)])


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([{"limit": 3, "share_of_source": 0.5}], "limit and share_of_source both say how many"),
        ([{"limit": 3, "share_of_mixture": 0.5}], "limit and share_of_mixture both say"),
        ([{"share_of_source": 0.5, "share_of_mixture": 0.5}], "share_of_source and share_of_mixture both say"),
        ([{"share_of_mixture": 0.5}, {}], "for every source of the mixture, or for none"),
        ([{"share_of_mixture": 0.5}, {"limit": 3}], "for every source of the mixture, or for none"),
        ([{"share_of_source": 0}], "share_of_source: .*greater than 0"),
        ([{"share_of_source": 1.01}], "share_of_source: .*less than or equal to 1"),
        ([{"share_of_mixture": -1}], "share_of_mixture: .*greater than 0"),
        ([{"limit": 0}], "limit: .*greater than 0"), ([{"take": "last"}], "take: .*'shuffled' or 'first'"),
        ([{"weight": 0.5}], "unknown key 'dpo.train.0.weight'"), ([], "dpo.train: .*at least 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["dpo.train", "dpo.held_out", "sft.train", "sft.held_out"])
def test_an_impossible_mixture_is_refused_when_the_recipe_is_read(stage, sources, words):
    """Found out while rows are read, it would cost the download of the sources before it."""
    room, split = stage.split(".")
    sources = [{"source": "orca_dpo_pairs", "path": "pairs_train.jsonl"} | one for one in sources]
    with pytest.raises(RecipeProblem, match=words.replace("dpo.train", stage)):
        recipes.load("course", "tiny", overrides={room: {split: sources}})
