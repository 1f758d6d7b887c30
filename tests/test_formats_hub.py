"""Run alone: python -m pytest tests/test_formats_hub.py"""

from types import SimpleNamespace

import datasets
import httpx
import pytest
from test_formats_readers import ROWS

from hermes_nb import formats
from hermes_nb.errors import DataProblem, NetworkProblem

SIX = ("train_sft", "test_sft", "train_gen", "test_gen", "train_prefs", "test_prefs")
PLAIN = ["train", "test"] * 3
NO_TEST = ["train", None] * 3
# the hub's name of train and test, then of the handbook's six; None where the set has no such rows
NAMES = {
    "ultrafeedback_binarized": [*("train_prefs", "test_prefs"), *SIX],
    "ultrachat_200k": ["train_sft", "test_sft", *SIX[:4], "train_sft", "test_sft"],
    "hh_rlhf": ["train", "test", *PLAIN],
    "orca_dpo_pairs": ["train", None, *NO_TEST],
    "ultrachat": ["train", None, *NO_TEST],
    "sharegpt": ["train", None, *NO_TEST],
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A faked `datasets.load_dataset`: notes what is asked of it, answers with `hub.rows` or raises `hub.error`."""
    told = SimpleNamespace(asked=[], rows=[ROWS["orca_dpo_pairs"]] * 4, error=None, splits={})

    def load_dataset(name, **how):
        told.asked.append((name, how["split"], how["streaming"]))
        yield from told.rows
        if told.error:
            raise told.error

    def builder(name, **how):
        return SimpleNamespace(info=SimpleNamespace(splits=told.splits))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "none")
    return told


@pytest.mark.parametrize("source", NAMES)
def test_the_six_split_names_mean_what_the_set_has(source, hub):
    """A recipe says `test_prefs` once for all its sources; a set without parts of that kind has `test`."""
    hub.rows = [ROWS[source]]
    known = formats.READERS[source]
    for split, name in zip(("train", "test", *SIX), NAMES[source], strict=True):
        if name:
            assert formats.hub_split(known, split) == name
            formats.load(source, split=split)
            assert hub.asked[-1] == (known.hub, name, True)


@pytest.mark.parametrize("source", [name for name in NAMES if None in NAMES[name]])
def test_a_test_split_of_a_set_without_one_names_the_splits(source, hub):
    """Asked for it, the hub answers with an error about a name; with the training rows instead, nothing is held out."""
    known = formats.READERS[source]
    for split in ("test", *SIX[1::2]):
        for asking in (
            lambda split=split: formats.hub_split(known, split),
            lambda split=split: formats.load(source, split=split),
        ):
            with pytest.raises(DataProblem, match=f"^{known.hub}: has no test rows, only train"):
                asking()
    assert hub.asked == []


def test_every_split_name_of_every_source_is_one_that_it_has():
    """Sent a name that it has not, the hub answers with an error about the name."""
    for known in formats.READERS.values():
        for split in ("train", *SIX[::2]):
            assert formats.hub_split(known, split) in known.splits
        for other in ("validation", "train[:5%]", "train_extra", "all"):
            assert formats.hub_split(known, other) == other


def test_rows_of_the_hub_are_streamed_and_counted_from_0(hub):
    """Downloaded whole, half a million rows would be fetched for twenty."""
    found = formats.load("orca_dpo_pairs")
    assert list(found["row"]) == [0, 1, 2, 3]
    assert hub.asked == [("Intel/orca_dpo_pairs", "train", True)]


@pytest.mark.parametrize(("splits", "passes"), [({"train": SimpleNamespace(num_examples=4)}, 1), ({}, 2), (None, 2)])
def test_rows_of_the_hub_are_counted_by_the_card_or_on_the_stream(splits, passes, hub):
    """`limit` must know how many there are; a card that does not say costs a second pass, not a wrong draw."""
    hub.splits = splits
    found = formats.load("orca_dpo_pairs", limit=2, seed=1)
    assert sorted(found["row"]) == list(formats.drawn(4, 2, 1))
    assert len(hub.asked) == passes


ERRORS = [
    ConnectionError("offline"), FileNotFoundError("no such set"), ValueError("bad split"), TimeoutError("slow"),
    httpx.ConnectError("no route"), httpx.ReadTimeout("slow"), datasets.exceptions.DatasetGenerationError("broken"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("rows", [0, 3], ids=["at once", "half-way"])
def test_a_hub_out_of_reach_is_said_with_the_way_out(error, rows, hub):
    """A traceback of the hub's client (huggingface_hub 1 speaks through httpx) does not say that a file would do."""
    hub.error, hub.rows = error, hub.rows[:rows]
    with pytest.raises(NetworkProblem, match=r"Intel/orca_dpo_pairs \(train\) .*local file"):
        formats.load("orca_dpo_pairs")


def test_a_hub_that_fails_leaves_nothing_half_written(hub, tmp_path):
    """Each try in a bad network would leave another folder behind."""
    hub.error = ConnectionError("offline")
    with pytest.raises(NetworkProblem):
        formats.load("orca_dpo_pairs")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_on_the_hub_asks_for_a_file(hub):
    """Asked for under no name, the hub would say that `None` does not exist."""
    for source, known in formats.READERS.items():
        if known.hub is None:
            with pytest.raises(DataProblem, match=f"{source}: not on the hub; give a local file"):
                formats.load(source)
    assert hub.asked == []
