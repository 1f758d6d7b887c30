"""Run alone: python -m pytest tests/test_plots_data.py"""

import pytest

from hermes_nb import widgets
from hermes_nb.plots import data

LENGTHS = [(2, 4, 2), (2, 6, 2), (5, 1, 1)]


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_share_of_lost_stops_falls_to_nothing():
    """At 7 only the row of 2 + 6 = 8 tokens is cut: one in three; at 8 none is."""
    fig = data.lost_stops(LENGTHS, 7)
    chosen, rejected, limit = fig.axes[0].lines
    at = dict(zip(chosen.get_xdata(), chosen.get_ydata(), strict=True))
    assert at[7] == pytest.approx(1 / 3)
    assert at[8] == 0
    assert max(rejected.get_ydata()) == 0
    assert list(limit.get_xdata()) == [7, 7]


def test_both_mistakes_of_a_character_limit_are_counted():
    """(90, 20) would fit 50 tokens and is thrown away; (30, 60) is kept and too long; (40, 10) and (90, 80) agree."""
    fig = data.characters({"one": [(90, 20), (30, 60)], "two": [(40, 10), (90, 80)]}, 50)
    assert texts(fig.axes[0]) == ["would fit, thrown away: 1", "kept, yet too long: 1"]


def test_the_safety_table_counts_what_the_filter_keeps():
    """Kept: exactly one safe. Both safe says nothing on safety; both unsafe would choose an unsafe answer."""
    rows = [
        {"is_response_0_safe": a, "is_response_1_safe": b}
        for a, b in [(True, False)] * 3 + [(False, True), (True, True)]
    ]
    fig = data.safety(rows)
    assert texts(fig.axes[0]) == ["1\ndropped: both safe", "3\nkept", "1\nkept", "0\ndropped: none safe"]
    assert "4 of 5" in fig.axes[0].get_title()


def test_every_pair_stands_in_its_source_s_histogram():
    """Shares of one source sum to one, whatever its size."""
    fig = data.length_bias({"a": [(5, 1), (1, 5), (2, 2)], "b": [(9, 1)]})
    for ax in fig.axes:
        assert sum(bar.get_height() for group in ax.containers for bar in group) == pytest.approx(1)
    assert [sum(b.get_height() for b in group) for group in fig.axes[0].containers] == pytest.approx([1 / 3] * 3)


def test_a_tie_in_length_helps_neither_rule():
    """Counted for one of them, equal lengths would look like bias: 2 of 4 longer, 1 of 4 shorter, 1 tie."""
    fig = data.pickers({"a": [(5, 1), (6, 1), (1, 5), (2, 2)]})
    assert [bar.get_width() for group in fig.axes[0].containers for bar in group] == [0.5, 0.25]


def test_one_weight_has_three_meanings():
    """Sizes 100 and 40, weight 0.5: shares 50 + 20; a mixture of 40 / 0.5 = 80, so 40 + 40; a count of 30 each."""
    fig = data.weight_meanings({"big": 100, "small": 40}, 0.5, 30)
    assert [bar.get_width() for group in fig.axes[0].containers for bar in group] == [50, 20, 40, 40, 30, 30]


def test_the_meaning_called_trl_is_trl_s():
    """The bars name TRL 1.16: another version's rule must fail here, not in a reader's mixture."""
    import datasets
    from trl.scripts import utils

    sizes = {"big": 90, "small": 20}
    parts = {name: datasets.Dataset.from_dict({"x": [0] * n}) for name, n in sizes.items()}
    config = utils.DatasetMixtureConfig(datasets=[utils.DatasetConfig(path=n, fraction=0.5) for n in sizes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda path, *a, **k: parts[path])
        mixed = utils.get_dataset(config)
    drawn = [bar.get_width() for group in data.weight_meanings(sizes, 0.5, 10).axes[0].containers for bar in group]
    assert len(mixed["train"]) == sum(drawn[2:4]) == 40


def test_bars_of_an_audit_add_up():
    """In = kept + dropped, in the title and in the bars."""
    report = {"rows": 6, "kept": 3, "dropped": 3, "reasons": {"empty answer": 2, "roles": 1}, "max_length": 9}
    fig = data.reasons(report)
    assert [bar.get_width() for bar in fig.axes[0].patches] == [3, 2, 1]
    assert "6 in = 3 kept + 3 dropped, at 9 tokens" in fig.axes[0].get_title()
    assert widgets.png(data.reasons(report | {"kept": 6, "dropped": 0, "reasons": {}}))


def test_pictures_stay_small():
    """A committed notebook of many pictures must stay under 400 KB."""
    assert len(widgets.png(data.characters({"a": [(i, i // 4) for i in range(600)]}, 256))) < 80_000
