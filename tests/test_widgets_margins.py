"""The margin explorer. Run alone: python -m pytest tests/test_widgets_margins.py"""

import json
import threading
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure
from payloads import NAMED

from hermes_nb import history, widgets
from hermes_nb.errors import DataProblem, FileProblem

# margins with beta 0.1 are a tenth of these differences; at step 4 pair 2 is worst (-0.3), pair 1 best (+0.9)
NATS = {0: (0, 0, 0, 0), 2: (1, 2, 3, 1), 4: (4, 9, -3, 2)}
ASKED = ("Why rain?", "Why snow?", "What is hail?", "Why fog?")


def pair(number, text="", kind="", source="web", tokens=3):
    row = {part: [{"role": "user", "content": text or f"{part} {number}"}] for part in ("prompt", "chosen", "rejected")}
    if not text:
        row["prompt"][0]["content"] = ASKED[number % 4]
    return {"pair": number, **row, "kind": kind, "source": source, "row": 7, "pieces": [["x"] * tokens, ["y"]]}


PAIRS = [pair(0, kind="a"), pair(1, kind="b", tokens=9), pair(2, kind="a", source="book"), pair(3, tokens=9)]


def look(step, nats):
    return [{"step": step, "pair": p, "logps": [-50.0 + n, -40.0]} for p, n in enumerate(nats)]


def write(folder, name="one", beta=0.1, steps=(0, 2, 4), pairs=PAIRS):
    file = folder / f"history_{name}.jsonl"
    lines = [{"beta": beta}, *pairs, *(line for s in steps for line in look(s, NATS[s][: len(pairs)]))]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def panel(tmp_path, shown):
    return widgets.margin_explorer(write(tmp_path), {"a": "kind a"})


def listed(panel):
    return [number for _, number in panel.controls["pair"].options]


def test_the_first_view_is_the_last_step_with_the_worst_pair(panel, shown):
    """A committed notebook shows this picture and nothing else."""
    assert (panel.controls["step"].value, panel.controls["pair"].value) == (4, 2)
    assert set(shown[0]) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert len(shown[0]["image/png"]) < 80_000
    assert "4 held-out pairs at steps 0 to 4" in shown[0]["text/plain"]
    assert "-0.3" in panel.outputs["numbers"].value
    assert "What is hail?" in panel.outputs["text"].value


def test_the_step_slider_moves_the_picture_and_keeps_the_pair(panel):
    """A slider that moves nothing, or one under which the pair being followed changes."""
    seen = {panel.outputs["figure"].value}
    curve = panel.outputs["curve"].value
    for step, margin in ((2, "+0.3"), (0, "+0")):
        panel.controls["step"].value = step
        seen.add(panel.outputs["figure"].value)
        assert panel.controls["pair"].value == 2
        assert f">{margin}<" in panel.outputs["numbers"].value
    assert len(seen) == 3
    assert panel.outputs["curve"].value is curve  # not drawn again


def test_the_order_picks_its_first_pair(panel):
    """Worst must be the smallest margin of the table, best the largest."""
    run = panel.controls
    for how, first in (("best", 1), ("most changed", 1), ("by number", 0), ("worst", 2)):
        run["order"].value = how
        assert run["pair"].value == first, how
    assert listed(panel) == [2, 3, 0, 1]
    assert run["pair"].label.startswith("-0.300  pair 2: What is hail?")


def test_picking_a_pair_shows_it_marks_it_and_draws_its_way(panel):
    """The texts of one pair under the point of another."""
    before = [panel.outputs[name].value for name in ("figure", "curve", "text", "numbers")]
    panel.controls["pair"].value = 1
    now = [panel.outputs[name].value for name in ("figure", "curve", "text", "numbers")]
    assert not [a for a, b in zip(before, now, strict=True) if a == b]
    assert "Why snow?" in now[2]
    assert "kind: b; source: web, row 7" in now[3]
    assert "+0.9" in now[3]


def test_buttons_go_through_the_list_and_stop_at_its_ends(panel, caplog):
    """In a notebook the arrow keys leave the list for the next cell; without buttons a keyboard reader is stuck."""
    run = panel.controls
    seen = []
    for name in ("next", "next", "next", "next", "previous"):
        run[name].click()
        seen.append(run["pair"].value)
    assert seen == [3, 0, 1, 1, 0]
    assert not caplog.records  # ipywidgets logs what a callback raises
    run["search"].value = "zebra"
    run["next"].click()
    assert run["pair"].value is None


def test_filters_combine_and_leave_only_what_fits(panel):
    """A filter that works alone and is forgotten with another."""
    run, seen = panel.controls, panel.outputs
    everything = seen["figure"].value
    run["search"].value = "Hail"
    assert (listed(panel), run["pair"].value) == ([2], 2)
    assert seen["figure"].value != everything  # the same pair is marked, the others are gone
    run["search"].value = "WHY"
    assert set(listed(panel)) == {0, 1, 3}
    assert run["pair"].value == 3  # the worst of those left
    run["length"].value = (4, 9)
    assert set(listed(panel)) == {1, 3}
    run["kind"].index = [text for text, _ in run["kind"].options].index("no kind")
    assert listed(panel) == [3]
    run["kind"].index, run["length"].value, run["search"].value = 0, (3, 9), ""
    run["source"].index = [text for text, _ in run["source"].options].index("book")
    assert listed(panel) == [2]
    run["source"].index = 0
    assert len(listed(panel)) == 4


def test_nothing_left_is_said_and_can_be_undone(panel):
    """An exception in a callback is lost, and the page stays as it was."""
    panel.controls["search"].value = "zebra"
    assert "No pair fits the filters" in panel.outputs["note"].value
    assert (listed(panel), panel.outputs["text"].value, panel.outputs["numbers"].value) == ([], "", "")
    panel.controls["search"].value = ""
    assert panel.outputs["note"].value == ""
    assert panel.controls["pair"].value == 2
    assert "What is hail?" in panel.outputs["text"].value


def test_several_runs_are_drawn_over_one_another(tmp_path, shown, monkeypatch):
    """Margins of two betas look comparable and are not; a run without the step shows an older one."""
    files = {"low": write(tmp_path), "high": write(tmp_path, "high", 0.5, (0, 2))}
    figures, draw = [], widgets.margins.png
    monkeypatch.setattr(widgets.margins, "png", lambda fig: figures.append(fig) or draw(fig))
    panel = widgets.margin_explorer(files)
    assert "beta differs" in panel.outputs["note"].value
    assert "in the order of low" in panel.outputs["note"].value
    table = panel.outputs["numbers"].value  # pair 2: 0.1 * -3 at step 4, 0.5 * 3 at step 2
    assert ">-0.3<" in table
    assert ">+1.5<" in table
    both = figures[0]
    outlines = [patch.get_linestyle() for patch in both.axes[0].patches if not patch.get_fill()]
    assert len(set(outlines)) == len(outlines) == 2
    texts = [text.get_text() for text in both.legends[0].get_texts()]
    assert [text.split(" (beta")[0] for text in texts] == ["low", "high"]


def test_runs_whose_names_differ_late_stay_apart(tmp_path, shown):
    """Cut to one key, the second run would silently take the place of the first."""
    files = {"x" * 50 + end: write(tmp_path, end, beta) for end, beta in (("1", 0.1), ("2", 0.5))}
    panel = widgets.margin_explorer(files)
    assert ">-0.3<" in panel.outputs["numbers"].value
    assert ">-1.5<" in panel.outputs["numbers"].value
    one, two = shown[0]["text/plain"].split("runs: ")[1].split(", ")
    assert one != two
    assert two.endswith("(2)")


def test_a_first_view_that_cannot_be_drawn_is_an_error_of_the_cell(tmp_path, shown, monkeypatch):
    """Kept for a callback, it would be an empty picture that nobody asks about."""

    def fail(*args):
        raise TypeError("cannot draw")

    monkeypatch.setattr(widgets.margins.explorer, "margins_at", fail)
    with pytest.raises(TypeError, match="cannot draw"):
        widgets.margin_explorer(write(tmp_path))
    assert not shown


def test_a_change_that_comes_while_another_is_drawn_is_drawn_after_it(panel, monkeypatch):
    """Callbacks run in two threads: the slider would stand at a step that the picture does not show."""
    drawn, other = [], threading.Thread(target=lambda: setattr(panel.controls["step"], "value", 0))

    def draw(runs, step, *more):
        drawn.append(step)
        if len(drawn) == 1:
            other.start()
            other.join(0.1)  # it waits for us, and we for it no longer than this
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(widgets.margins.explorer, "margins_at", draw)
    panel.controls["step"].value = 2
    other.join(10)
    assert (drawn, panel.controls["step"].value) == ([2, 0], 0)


def test_a_value_that_a_control_refuses_leaves_the_view_alive(panel, monkeypatch):
    """A refusal while the choices are set would leave the box deaf to every later change."""
    import traitlets

    def refuse(*args):
        raise traitlets.TraitError("no <such> step")

    with monkeypatch.context() as broken:
        broken.setattr(widgets.margins, "offer", refuse)
        panel.controls["refresh"].click()
        assert "not refreshed: no &lt;such&gt; step" in panel.outputs["note"].value
    panel.controls["pair"].value = 1
    assert "Why snow?" in panel.outputs["text"].value


def test_pairs_without_a_margin_or_a_row_are_told_as_they_are(tmp_path, shown):
    """A run that blew up is no filter, and `row None` is no row."""
    found = history.looks(write(tmp_path, pairs=[{**one, "row": None} for one in PAIRS]))
    found.table.loc[found.table.step == 4, "margin"] = float("nan")
    assert pd.isna(found.margins(4)).all()
    panel = widgets.margin_explorer(found)
    assert "filters" not in panel.outputs["note"].value
    assert "source: web<" in panel.outputs["numbers"].value
    assert panel.controls["length"].description == "chosen tokens"


def test_pairs_that_runs_do_not_share_are_left_out(tmp_path, shown):
    """Two different pairs would be drawn as one."""
    other = write(tmp_path, "other", pairs=[*PAIRS[:3], pair(3, text="another")])
    panel = widgets.margin_explorer({"one": write(tmp_path), "other": other})
    assert listed(panel) == [2, 0, 1]
    assert "1 pairs are not the same" in panel.outputs["note"].value
    with pytest.raises(DataProblem, match="share no held-out pair"):
        widgets.margin_explorer({"one": write(tmp_path), "other": write(tmp_path, "x", pairs=[pair(0, text="x")])})


def test_refresh_finds_a_new_step_and_follows_it(tmp_path, shown):
    """Who watches a run must not have to run the cell again."""
    file = write(tmp_path, steps=(0,))
    panel = widgets.margin_explorer(file)
    assert panel.controls["step"].value == 0
    for step in (2, 4):
        with file.open("a") as out:
            out.write("".join(json.dumps(line) + "\n" for line in look(step, NATS[step])))
        panel.controls["refresh"].click()
        assert panel.controls["step"].value == step
    assert [value for _, value in panel.controls["step"].options] == [0, 2, 4]
    panel.controls["step"].value = 2
    panel.controls["refresh"].click()
    assert panel.controls["step"].value == 2  # a step that was chosen stays


BARE = '{"pair": 0, "prompt": [], "chosen": [], "rejected": []}\n'  # no tokens


@pytest.mark.parametrize("damage", ['{"step": 6, "pa', "3\n", "\udcff", BARE, '{"logps": [1]}\n', None])
def test_a_file_that_became_unreadable_is_said_and_the_view_stays(tmp_path, shown, damage):
    """A traceback that nobody sees, or a page that goes blank."""
    file = write(tmp_path)
    panel = widgets.margin_explorer(file)
    before = panel.outputs["figure"].value
    if damage is None:
        file.unlink()
    else:
        with file.open("ab") as out:
            out.write(damage.encode("utf-8", "surrogateescape"))
    panel.controls["refresh"].click()
    assert "not refreshed" in panel.outputs["note"].value
    assert panel.outputs["figure"].value == before
    panel.controls["pair"].value = 1
    assert "Why snow?" in panel.outputs["text"].value
    write(tmp_path)
    panel.controls["refresh"].click()
    assert panel.outputs["note"].value == ""


def test_looks_that_were_read_already_are_taken_as_they_are(tmp_path, shown):
    """A notebook that has the looks must not read them twice."""
    found = history.looks(write(tmp_path))
    panel = widgets.margin_explorer({"mine": found})
    panel.controls["refresh"].click()
    assert panel.controls["pair"].value == 2
    with pytest.raises(FileProblem, match="no history"):
        widgets.margin_explorer(tmp_path / "nowhere")


DRAWN = "NUL", "lone surrogates", "formula across cells", "overlong", "line separators"
ELEMENTS = {"div", "b", "br", "span", "table", "thead", "tbody", "tr", "th", "td", "ins", "del"}


def parsed(html):
    """Elements and attributes of some HTML."""
    elements, attributes = set(), set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.add(tag)
            attributes.update(attrs)

    Parser().feed(html)
    return elements, attributes


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NAMED)
def test_texts_of_data_never_act(tmp_path, shown, monkeypatch, name):
    """A row of a public data set would run as code, or stand in a description, which old ipywidgets show as HTML."""
    evil = NAMED[name]
    if name not in DRAWN:
        monkeypatch.setattr(widgets.margins, "png", lambda fig: b"")  # takes most of the time
    pairs = [pair(0, evil, evil, evil), pair(1, "plain text", "b")]
    panel = widgets.margin_explorer(
        {evil: write(tmp_path, pairs=pairs), "b": write(tmp_path, "b", pairs=pairs)}, {evil: evil}
    )
    alone = widgets.margin_explorer(write(tmp_path, pairs=pairs))  # here the kind itself stands in the legend
    for one in (panel, alone):
        one.controls["pair"].value = 0
        for output in ("note", "numbers", "text"):
            elements, attributes = parsed(one.outputs[output].value)
            assert elements <= ELEMENTS
            assert {key for key, _ in attributes} <= {"style"}
    for bundle in shown:
        assert bundle["text/plain"].isprintable()
        assert bundle["image/png"] or name not in DRAWN
    said = [w.description for w in panel.controls.values()] + [panel.controls["search"].placeholder]
    assert all(len(text) < 20 and text.replace(",", "").replace(" ", "").isalpha() for text in said if text)
    options = [text for key in ("pair", "kind", "source") for text, _ in panel.controls[key].options]
    assert max(map(len, options)) <= 90
    assert all(text.isprintable() for text in options)


def test_only_core_widgets_are_used_and_each_control_has_a_name(panel):
    """ipywidgets 7.7.1 and 8.1, without any extension; a slider without a name is a riddle."""
    import ipywidgets

    found, todo = set(), [panel.box]
    while todo:
        part = todo.pop()
        found.add(type(part).__name__)
        todo += part.children if isinstance(part, ipywidgets.Box) else []
    assert found == {
        "VBox", "HBox", "HTML", "Button", "ToggleButtons", "Select", "SelectionSlider", "IntRangeSlider", "Text",
        "Image",
    }  # fmt: skip
    assert all(control.description for control in panel.controls.values())
