"""Held-out pairs of runs: which, in what order, drawn. Run alone: python -m pytest tests/test_plots_explorer.py"""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from hermes_nb import history, plots, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.plots import picking
from hermes_nb.plots.base import NEUTRAL

# step -> (logp of chosen, of rejected) of pairs 0 to 3; with beta 0.1 the margins at step 2 are
#   0: 0.1 * (+5 - +1) = +0.4    1: 0.1 * (-2 - -1) = -0.1    2: 0.1 * (0 - -8) = +0.8    3: 0.1 * (1 - 0) = +0.1
LOGPS = {
    0: [(-50.0, -40.0), (-30.0, -20.0), (-60.0, -70.0), (-10.0, -10.0)],
    1: [(-49.0, -40.0), (-24.0, -20.0), (-60.0, -72.0), (-10.0, -11.0)],
    2: [(-45.0, -39.0), (-32.0, -21.0), (-60.0, -78.0), (-9.0, -10.0)],
}
PAIRS = [
    ("Why rain?", "a", "web", 3),
    ("Why snow?", "b", "web", 5),
    ("What is hail?", "a", "", 7),
    ("Fog?", None, None, 9),
]


def lines(beta=0.1, steps=(0, 1, 2), pairs=PAIRS):
    """What a run writes of its looks; the chosen answer's tokens are as many as a pair says."""
    out = [{"beta": beta, "loss": ["sigmoid"]}]
    for number, (asked, kind, source, tokens) in enumerate(pairs):
        turns = {"prompt": [{"role": "user", "content": asked}]}
        turns |= {s: [{"role": "assistant", "content": f"{s} {number}"}] for s in ("chosen", "rejected")}
        pieces = [["x"] * tokens, ["y"] * 2]
        out.append({"pair": number, **turns, "kind": kind, "source": source, "row": number, "pieces": pieces})
    return out + [{"step": s, "pair": p, "logps": logps} for s in steps for p, logps in enumerate(LOGPS[s])]


def looks(tmp_path, name="one", **changes):
    file = tmp_path / f"history_{name}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines(**changes)))
    return history.looks(file)


@pytest.fixture
def one(tmp_path):
    return looks(tmp_path)


def test_filters_keep_what_fits_all_of_them(one):
    """A filter that is not applied, or that loses pairs which have no kind."""
    assert picking.select(one) == [0, 1, 2, 3]
    assert picking.select(one, kind="a") == [0, 2]
    assert picking.select(one, kind="") == [3]
    assert picking.select(one, source="") == [2, 3]
    assert picking.select(one, length=(5, 7)) == [1, 2]
    assert picking.select(one, kind="a", length=(5, 7), source="") == [2]
    assert picking.select(one, kind="a", source="web", search="snow") == []


def test_search_looks_in_prompts_and_both_answers_without_case(one):
    """A reader who types `why` must find `Why`."""
    assert picking.select(one, search=" WHY ") == [0, 1]
    assert picking.select(one, search="Chosen 2") == [2]
    assert picking.select(one, search="rejected 3") == [3]


def test_pairs_come_in_the_order_asked_for(one):
    """Margins at step 2: 0.4, -0.1, 0.8, 0.1; at step 1: 0.1, 0.6, 0.2, 0.1; so moved 0.3, 0.7, 0.6, 0.0."""
    assert one.margins(2) == pytest.approx([0.4, -0.1, 0.8, 0.1])
    assert picking.order(one, 2, "worst") == [1, 3, 0, 2]
    assert picking.order(one, 2, "best") == [2, 0, 3, 1]
    assert picking.order(one, 2, "most changed") == [1, 2, 0, 3]
    assert picking.order(one, 2, "by number") == [0, 1, 2, 3]
    assert picking.order(one, 0, "most changed") == [0, 1, 2, 3]
    with pytest.raises(DataProblem, match="worst, best"):
        picking.order(one, 2, "nicest")


def test_a_run_without_that_step_shows_its_newest_look_before(one):
    """Runs that looked at other steps would not be comparable at all."""
    assert [picking.at(one, step) for step in (0, 1, 99)] == [0, 1, 2]
    late = dataclasses.replace(one, table=one.table[one.table.step > 0])
    assert picking.at(late, 0) == 1


def test_only_pairs_with_the_same_texts_are_shared(tmp_path, one):
    """Two runs with other held-out rows would be compared pair by pair although the pairs differ."""
    other = looks(tmp_path, "other", pairs=[PAIRS[0], ("Why sleet?", *PAIRS[1][1:]), *PAIRS[2:]])
    assert picking.shared({"one": one, "other": other}) == [0, 2, 3]


def points(fig):
    """The points of the scatter."""
    groups = [group for group in fig.axes[1].collections if isinstance(group, PathCollection)]
    return [tuple(point) for group in groups for point in np.asarray(group.get_offsets())]


def test_the_figure_shows_the_kept_pairs_and_says_what_they_come_to(one):
    """Mean of 0.4 and 0.8 is 0.6; a filter that the picture ignores says another number."""
    names = {"a": "kind a", "b": "kind b"}
    fig = plots.margins_at({"one": one}, 2, [0, 2], 2, names)
    assert fig.get_suptitle() == "step 2: 2 of 4 pairs; mean margin +0.6, 2 above 0"
    seen = points(fig)
    assert (0.5, pytest.approx(0.1)) in seen  # pair 0: chosen +5, rejected +1 nats
    assert (0.0, pytest.approx(-0.8)) in seen
    assert not [p for p in seen if p == pytest.approx((-0.2, -0.1))]  # pair 1 is filtered out
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["kind a", "kind b", "no kind"]


def test_axes_stay_put_from_step_to_step(one):
    """Axes that follow the data hide that it moves."""
    figs = [plots.margins_at({"one": one}, step, [0, 1, 2]) for step in (0, 1, 2)]
    for axis in (0, 1):
        seen = {(f.axes[axis].get_xlim(), f.axes[axis].get_ylim(), f.axes[axis].get_position().bounds) for f in figs}
        assert len(seen) == 1
    low, high = figs[0].axes[0].get_xlim()
    assert low <= -0.1 < 0.8 <= high


def test_the_picked_pair_is_marked_in_both_pictures(one):
    """A reader looks for the point of the pair that is shown below."""
    left, right = plots.margins_at({"one": one}, 2, None, 1).axes
    assert left.get_title() == "\u25b2 pair 1: -0.1"
    assert [-0.1] in [pytest.approx(list(line.get_xdata())) for line in left.lines if line.get_marker() == "^"]
    ring = next(line for line in right.lines if line.get_markersize() == 13)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((-0.2, -0.1))


def legend_of(fig):
    """The texts of the legend."""
    return [text.get_text().strip() for text in fig.legends[0].get_texts()]


def test_a_pair_that_one_of_several_runs_saw_is_marked_in_that_runs_way(one):
    """A single triangle would name no run."""
    half = dataclasses.replace(one, table=one.table[(one.table.step < 2) | (one.table.pair != 1)])
    fig = plots.margins_at({"half": half, "whole": one}, 2, None, 1)
    assert fig.axes[0].get_title() == "pair 1"
    assert ["pair 1: -0.1" in text for text in legend_of(fig)] == [False, True]
    assert [line.get_marker() for line in fig.axes[0].lines if line.get_markersize() == 10] == ["s"]


@pytest.mark.parametrize(
    ("label", "beta", "named"),
    [("run 1", 1.0, False), ("beta 0.1", 0.1, True), ("0.5", 0.5, True), ("beta 0.15", 0.1, False)],
)
def test_beta_is_said_unless_the_name_says_it(one, label, beta, named):
    """The 1 of "run 1" is no beta: the reader would compare sizes that do not compare."""
    runs = {label: dataclasses.replace(one, beta=beta), "other": one}
    assert (f"(beta {beta:g})" not in legend_of(plots.margins_at(runs, 2))[0]) == named


def test_kinds_of_data_are_drawn_whatever_they_hold(one):
    """A lone surrogate cannot be drawn at all, and a kind of a thousand letters leaves no room for the axes."""
    pairs = [p | {"kind": kind} for p, kind in zip(one.pairs, ("\ud800$x_{", "k" * 999, 3, None), strict=True)]
    fig = plots.margins_at({"one": dataclasses.replace(one, pairs=pairs)}, 2)
    assert len(widgets.png(fig)) > 1000
    assert set(legend_of(fig)) == {"\ufffd$x_{", "k" * 39 + "\u2026", "3", "no kind"}


def test_several_runs_are_outlined_and_their_units_told_apart(tmp_path, one):
    """Margins of beta 0.5 next to those of beta 0.1 look five times better and are not."""
    runs = {"_low": one, "high": looks(tmp_path, "high", beta=0.5, steps=(0, 1))}
    fig = plots.margins_at(runs, 2, None, 0)
    left, _ = fig.axes
    assert "sizes do not compare" in left.get_xlabel()
    said = legend_of(fig)
    # beta 0.5 at step 1: 0.5 * (1, 6, 2, 1) = 0.5, 3, 1, 0.5; mean 1.25
    assert said == [
        "_low (beta 0.1): mean margin +0.3, 3 above 0; pair 0: +0.4",
        "high (beta 0.5): mean margin +1.2, 4 above 0, of step 1; pair 0: +0.5",
    ]
    assert [ax.get_title() for ax in fig.axes] == ["pair 0", "\u25ef pair 0"]
    signs = [line for line in left.lines if line.get_markersize() == 10]
    points = [line for line in fig.legends[0].get_lines()]
    assert [(s.get_marker(), s.get_color()) for s in signs] == [(p.get_marker(), p.get_color()) for p in points]
    assert len({str(p.get_linestyle()) for p in left.patches}) == 2  # not by colour alone
    assert "compare" not in plots.margins_at({"a": one, "b": one}, 2).axes[0].get_xlabel()


@pytest.mark.parametrize("keep", [[], [99]])
def test_nothing_left_is_a_sentence(one, keep):
    """A search without a hit must not end in an error."""
    for runs in ({"one": one}, {"one": one, "two": one}):
        fig = plots.margins_at(runs, 2, keep, 0)
        assert fig.get_suptitle() == "step 2: 0 of 4 pairs: none fits the filters"
        assert len(widgets.png(fig)) > 1000


def test_a_look_that_is_half_written_or_has_no_numbers_is_drawn_as_far_as_it_goes(one):
    """A running run writes pair after pair; a run that blew up has margins that are no numbers."""
    table = one.table.copy()
    table.loc[(table.step == 2) & (table.pair == 0), ["margin", "reward_chosen"]] = math.nan
    half = dataclasses.replace(one, table=table[(table.step < 2) | (table.pair != 1)])
    fig = plots.margins_at({"half": half}, 2, None, 1)
    said = "mean margin +0.45, 2 above 0, 1 pair has no finite margin"  # 0.8 and 0.1
    assert fig.get_suptitle() == f"step 2: 2 of 4 pairs; {said}"
    assert picking.order(half, 2, "worst") == [3, 2, 0]
    assert len(widgets.png(fig)) > 1000


def test_margins_that_are_no_numbers_are_no_filter(one):
    """A run that blew up would look like a search without a hit."""
    table = one.table.copy()
    table.loc[table.step == 2, "margin"] = [math.nan, math.inf, -math.inf, math.nan]
    blown = dataclasses.replace(one, table=table)
    fig = plots.margins_at({"blown": blown}, 2, [0, 1, 2, 3], 1)
    assert fig.get_suptitle() == "step 2: 0 of 4 pairs; 4 pairs have no finite margin"
    both = plots.margins_at({"one": one, "blown": blown}, 2)
    assert legend_of(both)[1] == "blown (beta 0.1): 4 pairs have no finite margin"
    assert both.get_suptitle() == "step 2: 4 of 4 pairs"


def test_many_kinds_share_the_last_colour(one):
    """Data with thirty kinds would fill the page with its legend."""
    pairs = [p | {"kind": f"kind {n % 30}"} for n, p in enumerate(one.pairs * 10)]
    pairs = [p | {"pair": n} for n, p in enumerate(pairs)]
    rows = [one.table[one.table.pair == n % 4].assign(pair=n) for n in range(len(pairs))]
    fig = plots.margins_at({"many": dataclasses.replace(one, pairs=pairs, table=pd.concat(rows))}, 2)
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    assert len(texts) == 7
    assert texts[-1] == "other kinds"
    assert len(points(fig)) == len(pairs)


def test_the_way_of_a_pair_has_a_line_a_run(one):
    """Margins of pair 1: 0, 0.1 * 6, -0.1; a line through other pairs is a riddle."""
    (ax,) = plots.margin_over_steps({"one": one}, 1).axes
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0, 0.6, -0.1])
    assert len([line for line in ax.lines if len(line.get_xdata()) == 3]) == 3  # margin and both rewards
    (ax,) = plots.margin_over_steps({"$one_{": one, "_two": one}, 1).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 2
    assert len(ax.get_legend().get_texts()) == 2


PIECES = (["A", " card", ".\n", "<|im_end|>"], ["No", "<|im_end|>"])
VALUES = ([0.5, -0.25, 0.0, 0.125], [-1.0, 0.25])


def test_both_sides_of_a_pair_have_one_scale():
    """Each side on its own scale: the largest of the small ones looks as strong as the largest of all."""
    fig = plots.heat_pair(PIECES, VALUES, (True, False), "pair 3")
    boxes = [p.get_facecolor()[:3] for p in fig.axes[0].patches]
    assert len(boxes) == 6
    light = np.array(boxes[2])  # 0.0
    reach = [np.abs(np.array(box) - light).sum() for box in boxes]
    up = np.abs(np.array(boxes[0]) - light).sum() / np.abs(np.array(boxes[3]) - light).sum()
    assert up == pytest.approx(4, rel=0.01)  # 0.5 against 0.125
    assert reach[5] == pytest.approx(reach[0] / 2, rel=0.01)  # 0.25 of rejected against 0.5 of chosen
    said = [t.get_text() for t in fig.axes[0].texts]
    assert {"chosen: sum +0.38", "rejected: sum -0.75"} <= set(said)
    assert "\u00b11;" in fig.axes[0].get_title("left")
    framed = [p.get_linewidth() > 3 and p.get_edgecolor()[3] > 0 for p in fig.axes[0].patches]
    assert to_hex(fig.axes[0].patches[3].get_edgecolor()) == NEUTRAL  # darker ones do not show on a dark page
    assert framed == [False, False, False, True, False, False]
    half = plots.heat_pair(PIECES, VALUES, share=0.5).axes[0].patches
    assert half[0].get_facecolor()[:3] != boxes[0]


def test_a_sum_that_is_no_number_says_so():
    """A run that blew up drew `+nan`, and called all tokens 0."""
    fig = plots.heat_pair((["a", "b"], ["c"]), ([float("nan"), 0.0], [0.0]))
    assert "chosen: sum no number" in {t.get_text() for t in fig.axes[0].texts}
    assert "tokens without a number" in fig.axes[0].get_title("left")
    assert "all tokens are 0" in plots.heat_pair((["a"], ["c"]), ([0.0], [0.0])).axes[0].get_title("left")


def test_long_answers_stay_a_picture():
    """A thousand tokens would be a picture of two metres; the sum counts them all."""
    fig = plots.heat_pair((["token "] * 1000, ["x"]), ([0.001] * 1000, [0.0]))
    assert fig.get_figheight() < 5
    said = [t.get_text() for t in fig.axes[0].texts]
    assert any(t.startswith("chosen: sum +1.00, and ") for t in said)
    assert len(widgets.png(fig)) < 80_000
    with pytest.raises(DataProblem, match="2 tokens of rejected, 1 numbers"):
        plots.heat_pair((["a"], ["b", "c"]), ([0.0], [0.0]))
