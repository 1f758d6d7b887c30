"""Pairs with filters. Run alone: python -m pytest tests/test_widgets_pair_browser.py"""

import copy
import time

import datasets
import pytest

from hermes_nb import templates, views, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.widgets.pair_browser import BATCH, MOST, columns, matching


def pair(prompt, chosen, rejected, **more):
    sides = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    return {part: [{"role": role, "content": words}] for part, (role, words) in sides.items()} | more


def drawn(row):
    """What the widget holds when it shows `row`."""
    return f"<div style='line-height:1.4'>{views.pair(row)}</div>"


ROWS = [
    pair("What is rain?", "water", "it falls down", source="one", kind="a", row=0),
    pair("What is bread?", "flour and Water", "food", source="two", kind="b", row=1),
    pair("What is a line?", "points in a row", "it goes on and on", source="one", kind="b", row=2),
    pair("What is stra\u00dfe?", "a street in German", "two three four five", source="one", kind="a", row=3),
]


def test_the_columns_count_the_words_of_the_answers():
    """One, three, four, four words chosen; three, one, five, four rejected."""
    table = columns(ROWS)
    assert table.lengths.tolist() == [[1, 3], [3, 1], [4, 5], [4, 4]]
    assert table.unit == "words"
    assert (table.source, table.kind) == (["one", "two", "one", "one"], ["a", "b", "b", "a"])


def test_with_a_tokenizer_they_count_tokens(plain_tokenizer):
    """Words say little about max_length; batches must not lose or double a row."""
    table = columns(ROWS * (BATCH // len(ROWS) + 1), plain_tokenizer)
    expected = [
        [len(plain_tokenizer.encode(row[side][0]["content"], add_special_tokens=False)) for side in
         ("chosen", "rejected")] for row in ROWS
    ]  # fmt: skip
    assert (table.lengths.tolist(), table.unit) == (expected * (BATCH // len(ROWS) + 1), "tokens")
    assert len(table.texts) > BATCH


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, [0, 1, 2, 3]),
        ({"source": "one"}, [0, 2, 3]),
        ({"source": "nowhere"}, []),
        ({"kind": "b"}, [1, 2]),
        ({"longer": 1}, [1]),
        ({"longer": -1}, [0, 2]),
        ({"length": (3, 4)}, [1, 2, 3]),
        ({"length": (4, 4)}, [2, 3]),
        ({"search": "WATER"}, [0, 1]),
        ({"search": "what is b"}, [1]),
        ({"search": "STRASSE"}, [3]),
        ({"search": "on and"}, [2]),
        ({"search": "nothing like it"}, []),
        ({"search": "TWO"}, [1, 3]),  # the source of one, a word of the other
        ({"search": "special"}, [2]),
        ({"search": "  water \n"}, [0, 1]),
        ({"search": "   "}, [0, 1, 2, 3]),
        ({"search": "(none)"}, []),
        ({"source": "one", "kind": "a", "length": (2, 9), "search": "german"}, [3]),
    ],
)
def test_what_is_left_is_what_passes_every_filter(filters, left):
    """Bounds belong to the range, equal lengths are neither longer, case does not count, source and kind are read."""
    table = columns([row | {"kind": "special"} if row["row"] == 2 and "kind" not in filters else row for row in ROWS])
    assert matching(table, **filters) == left
    bare = columns([{part: row[part] for part in ("prompt", "chosen", "rejected")} for row in ROWS])
    assert matching(bare, search="(none)") == []


def test_a_list_and_a_dataset_give_the_same():
    """Both are handed around in the notebooks."""
    one, two = columns(ROWS), columns(datasets.Dataset.from_list(ROWS))
    assert one.lengths.tolist() == two.lengths.tolist()
    assert (one.source, one.kind, one.texts) == (two.source, two.kind, two.texts)


def test_filters_that_cannot_choose_are_left_out(shown):
    """A set from one source, without kinds, needs no lists of one entry."""
    bare = [{k: v for k, v in row.items() if k not in ("kind", "source")} for row in ROWS]
    assert set(widgets.pair_browser(bare).controls) == {"search", "longer", "length", "previous", "next", "pair"}
    none = [row | {"kind": None} for row in bare]
    assert columns(none).kind is None
    assert {"kind", "source"} <= set(widgets.pair_browser(ROWS).controls)


def test_a_filter_shows_the_first_pair_left_and_the_count(shown):
    """The count must be of what can be paged through."""
    panel = widgets.pair_browser(ROWS)
    head, view, controls = panel.outputs["head"], panel.outputs["pair"], panel.controls
    assert "4 of 4 pairs" in head.value
    assert view.value == drawn(ROWS[0])
    controls["kind"].value = "b"
    assert "2 of 4 pairs" in head.value
    assert "number 1: source two, row 1, kind b, chosen 3, rejected 1 words" in head.value
    assert view.value == drawn(ROWS[1])
    assert (controls["pair"].value, controls["pair"].max) == (1, 2)


def test_the_options_of_a_filter_filter(shown):
    """An option that shows one value and filters by another misleads; `all` must bring everything back."""
    panel = widgets.pair_browser(ROWS)
    source = panel.controls["source"]
    assert [name for name, _ in source.options] == ["all", "one: 3", "two: 1"]
    for (name, _), count in zip(source.options, (4, 3, 1), strict=True):
        source.label = name
        assert f"{count} of 4 pairs" in panel.outputs["head"].value
    source.label = "all"
    assert "4 of 4 pairs" in panel.outputs["head"].value
    for name, count in (("chosen longer", 1), ("rejected longer", 2), ("all", 4)):
        panel.controls["longer"].label = name
        assert f"{count} of 4 pairs" in panel.outputs["head"].value


def test_buttons_and_slider_move_through_what_is_left_and_stop_at_the_ends(shown):
    """Past the end there is no pair; a button that does nothing must look so."""
    panel = widgets.pair_browser(ROWS)
    view, controls = panel.outputs["pair"], panel.controls
    controls["source"].value = "one"
    seen = []
    for _ in range(4):
        seen.append(view.value)
        controls["next"].click()
    assert seen == [drawn(ROWS[at]) for at in (0, 2, 3, 3)]
    assert controls["next"].disabled
    assert not controls["previous"].disabled
    for _ in range(4):
        controls["previous"].click()
    assert view.value == drawn(ROWS[0])
    assert controls["previous"].disabled
    controls["pair"].value = 2
    assert view.value == drawn(ROWS[2])


def test_the_pair_shown_stays_while_it_passes(shown):
    """Widening a filter must not lose the pair that the reader looks at; nor must a search that found nothing."""
    panel = widgets.pair_browser(ROWS)
    view, controls = panel.outputs["pair"], panel.controls
    controls["kind"].value = "b"
    controls["next"].click()
    controls["kind"].value = ""
    assert view.value == drawn(ROWS[2])
    assert controls["pair"].value == 3
    controls["search"].value = "xyz"
    controls["search"].value = ""
    assert view.value == drawn(ROWS[2])


def test_a_shorter_list_does_not_move_the_reader_to_its_end(shown):
    """The slider's new end pulls its place along; that is not the reader's wish."""
    panel = widgets.pair_browser(ROWS)
    panel.controls["pair"].value = 3
    panel.controls["length"].value = (4, 4)
    assert panel.outputs["pair"].value == drawn(ROWS[2])
    assert (panel.controls["pair"].value, panel.controls["pair"].max) == (1, 2)


def test_a_problem_is_told_as_text(shown, monkeypatch):
    """An error may quote the row."""

    def refuse(row):
        raise DataProblem("<img src=x>")

    monkeypatch.setattr(views, "pair", refuse)
    assert widgets.pair_browser(ROWS).outputs["pair"].value == "<b>&lt;img src=x&gt;</b>"


def test_when_nothing_is_left_there_is_a_sentence(shown):
    """An empty box looks like a crash, and the old pair would be a lie."""
    panel = widgets.pair_browser(ROWS)
    panel.controls["search"].value = "xyz"
    assert "0 of 4 pairs" in panel.outputs["head"].value
    assert "Nothing is left" in panel.outputs["head"].value
    assert panel.outputs["pair"].value == ""
    assert all(panel.controls[name].disabled for name in ("previous", "next", "pair"))
    panel.controls["next"].click()
    assert panel.outputs["pair"].value == ""


def test_a_row_that_is_no_pair_is_a_sentence_and_the_next_one_works(shown):
    """Messy files are what a browser is for."""
    panel = widgets.pair_browser([ROWS[0], ROWS[1] | {"chosen": "text"}, ROWS[2] | {"prompt": [None]}, ROWS[3]])
    for said in ("chosen is not a list of turns", "prompt is not a list of turns", "street in German"):
        panel.controls["next"].click()
        assert said in panel.outputs["pair"].value
    assert columns([ROWS[0], ROWS[1] | {"chosen": "text"}]).lengths.tolist()[1] == [0, 1]


def test_no_rows_and_no_pairs_are_refused_with_a_sentence(shown):
    """The common mistake is to hand over conversations."""
    with pytest.raises(DataProblem, match="at least one row"):
        widgets.pair_browser([])
    with pytest.raises(DataProblem, match="no column prompt, chosen, rejected"):
        widgets.pair_browser([{"messages": []}])


def test_many_sources_do_not_make_an_endless_list(shown):
    """A list of 20,000 options freezes the page."""
    rows = [ROWS[0] | {"source": f"page {n}"} for n in range(MOST + 50)] + [ROWS[0] | {"source": "page 7"}]
    options = widgets.pair_browser(rows).controls["source"].options
    assert len(options) == MOST + 1
    assert options[1][0] == "page 7: 2"


def test_a_large_set_does_not_freeze(shown):
    """20,000 rows: two seconds to read on two cores, a few milliseconds to filter; far bounds, for slow machines."""
    words = " ".join(f"word{n}" for n in range(150))
    rows = [pair("why", f"{words} {n}", words, source="ab"[n % 2], row=n) for n in range(20_000)]
    begun = time.perf_counter()
    panel = widgets.pair_browser(rows)
    built = time.perf_counter()
    panel.controls["search"].value = "word149 19999"
    panel.controls["source"].value = "b"
    filtered = time.perf_counter()
    assert "1 of 20000 pairs" in panel.outputs["head"].value
    assert built - begun < 10
    assert filtered - built < 2


def test_a_reader_without_a_kernel_sees_the_first_pair(shown):
    """A committed notebook has no kernel."""
    panel = widgets.pair_browser(ROWS)
    (bundle,) = shown
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert views.pair(ROWS[0]) in bundle["text/html"]
    assert "4 pairs" in bundle["text/plain"]


def test_a_lone_surrogate_does_not_stop_the_tokenizer(plain_tokenizer):
    """One broken row of a list must not hide the others."""
    tokenizer = templates.fit(copy.deepcopy(plain_tokenizer), "chatml")
    table = columns([ROWS[0], pair("a", "b\ud800", "c")], tokenizer)
    assert table.lengths.shape == (2, 2)
