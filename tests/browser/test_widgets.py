"""Widgets by keyboard, without a model. Run alone: python -m pytest -m browser tests/browser/test_widgets.py"""

import re
from pathlib import Path

import pytest

from browser import samples
from browser.server import until

pytestmark = pytest.mark.browser

MADE_UP = f"""
import sys
sys.path.append({str(Path(__file__).resolve().parent.parent)!r})
from browser import samples
from hermes_nb import widgets
"""
EXPLORE = """
from ipywidgets import IntSlider
from hermes_nb import plots, widgets

def draw(power):
    fig, (ax,) = plots.base.figure()
    ax.plot([x**power for x in range(9)])
    return fig

widgets.explore(draw, power=IntSlider(2, 1, 4, description="power"));
"""
VOTE = """
from hermes_nb import widgets

pairs = [{"question": f"Why {i}?", "sft": f"padded {i}", "dpo": f"card {i}", "rule": "dpo"} for i in range(3)]
ballot = widgets.vote(pairs)
"""


def show(lab, call):
    """The cell of a notebook that makes one call."""
    return lab.run("shown.ipynb", MADE_UP, call).cell(call)


def test_an_arrow_key_on_a_slider_redraws_the_one_figure(lab):
    """A picture that does not follow its slider, or figures that pile up one below the other."""
    cell = lab.run("explore.ipynb", EXPLORE).cell("explore(")
    assert len(cell.pictures()) == 1
    lab.shot("first")
    for key, value in (("ArrowRight", "3"), ("ArrowLeft", "2")):
        with cell.changes(cell.pictures, what="another picture"):
            cell.slider("power").press(key)
        assert cell.read("power") == value
        assert len(cell.pictures()) == 1
        lab.shot(key)


def test_a_vote_can_be_cast_without_a_mouse(lab):
    """A ballot that needs a mouse, loses the focus after a vote, or stays on the same pair."""
    cell = lab.run("vote.ipynb", VOTE).cell("widgets.vote(")
    cell.button("Left").focus()
    for number, keys in enumerate((["Space"], ["Tab", "Space"], ["Tab", "Space"]), 1):
        assert f"{number} of 3" in cell.text()
        with cell.changes(cell.text, what="the next pair"):
            for key in keys:
                lab.page.keyboard.press(key)
        lab.shot(f"vote {number}")
    until(lambda: "dpo wins" in cell.text(), 10, "the result is told")
    assert all(cell.button(name).is_disabled() for name in ("Left", "Right", "Tie"))


def test_the_margin_explorer_shows_the_numbers_of_the_pair_and_step(lab):
    """A slider that moves the picture and not the numbers, or numbers of another pair or step than the picked one."""
    cell = show(lab, "widgets.margin_explorer(samples.looks(), {'a': 'short', 'b': 'long'});")
    found = samples.looks()

    def told(step):
        """Whether the numbers are those of the first listed pair that the text names, at this step."""
        named = re.search(r"pair (\d+); kind: (short|long)", cell.text())
        assert named, cell.text()
        row = found.table[(found.table.step == step) & (found.table.pair == int(named[1]))].iloc[0]
        wanted = [f"{row[name]:+.3g}" for name in ("margin", "reward_chosen", "reward_rejected")]
        return all(value in re.findall(r"[+-][\d.e-]+", cell.text()) for value in wanted)

    until(lambda: told(10), 20, "the numbers of the last step")
    lab.shot("last step")
    for key, step in (("ArrowLeft", 5), ("ArrowLeft", 0), ("ArrowRight", 5)):
        with cell.changes(cell.pictures, what="another figure"):
            cell.slider("step").press(key)
        until(lambda step=step: cell.read("step") == str(step) and told(step), 20, f"the numbers of step {step}")
        lab.shot(f"step {step}")
    with cell.changes(lambda: re.search(r"pair \d+; kind", cell.text())[0], what="another pair"):
        cell.button("next").press("Space")
    until(lambda: told(5), 20, "the numbers of the other pair")
    lab.shot("other pair")
    assert len(cell.pictures()) == 2  # all pairs, and the way of the picked one


def test_the_token_heat_has_the_figure_of_every_token_on_hover(lab):
    """Titles that belong to another token, pair or step."""
    cell = show(lab, "widgets.token_heat(samples.looks(), pair=1);")
    found = samples.looks()
    titles = cell.output.locator("kbd[title]")

    def figures():
        return titles.evaluate_all("all => all.map(one => one.title)")

    for key, step in ((None, 10), ("ArrowLeft", 5)):
        if key:
            cell.slider("step").press(key)
        wanted = [f"{value:+.3f}" for side in found.earned(1, step) for value in side]
        until(lambda wanted=wanted: figures() == wanted, 20, f"the figures of step {step}: {wanted}")
        titles.first.hover()
        lab.shot(f"step {step}")
    with cell.changes(figures, what="the figures of another pair"):
        cell.button("next").press("Space")


def test_beta_in_the_loss_playground_changes_the_pull_and_the_curve(lab):
    """A control that moves the picture but not the words, or the other way round."""
    cell = show(lab, "widgets.loss_playground(samples.looks());")
    until(lambda: "= 0.1 x 0.5 = +0.05" in cell.text(), 20, "the pull at beta 0.1")
    lab.shot("beta 0.1")
    with cell.changes(cell.pictures, what="another curve"):
        cell.slider("beta").press("ArrowRight")
    until(lambda: "= 0.112 x 0.5 = +0.0561" in cell.text(), 20, "the pull at beta 0.112")  # 0.1 * 10 ** 0.05
    with cell.changes(cell.pictures, what="another loss"):
        cell.button("hinge (RSO)").press("Space")
    lab.shot("hinge")
    assert len(cell.pictures()) == 1


def test_the_token_view_says_what_max_length_cuts(lab):
    """A slider that cuts tokens but leaves the sentence as it was."""
    start = MADE_UP + "from hermes_nb import models\ntokenizer = models.tokenizer('builtin', 'chatml')"
    cell = lab.run("tokens.ipynb", start, "widgets.token_view(tokenizer, samples.rows());").cell("token_view(")
    assert "CUT OFF" not in cell.text()
    lab.shot("whole")
    cell.slider("max_length").press("Home")
    until(lambda: cell.text().count("1 STOP TOKEN CUT OFF") == 2, 20, "neither answer ends")
    assert "at max_length 8:" in cell.text()
    lab.shot("cut")
    with cell.changes(cell.text, what="the tokens of another row"):
        cell.slider("row").press("ArrowRight")
    until(lambda: "bread" in cell.text(), 20, "its question")


def test_pairs_can_be_paged_and_searched_by_keyboard(lab):
    """A browser that needs the mouse, or a search that does not filter."""
    cell = show(lab, "widgets.pair_browser(samples.rows());")
    assert "What is rain?" in cell.text()
    cell.button("next").press("Space")
    until(lambda: "What is bread?" in cell.text(), 20, "the next pair")
    lab.shot("next")
    cell.field("search").press_sequentially("moss")
    until(lambda: "What is moss?" in cell.text(), 20, "the pair that was searched")
    lab.shot("searched")
    assert cell.button("next").is_disabled()


def test_chat_streams_and_stops_while_it_answers(lab):
    """Answers that appear only when they are whole, and a Stop that is heard after the last word."""
    call = "widgets.chat({'short': samples.speak('a', 3), 'endless': samples.speak('b', 100_000)});"
    cell = show(lab, call)
    asked = cell.field("Question")
    asked.press_sequentially("What is rain?")
    asked.press("Enter")
    until(lambda: "b3" in cell.text(), 30, "the second speaker has begun")
    lab.shot("it writes")
    with cell.changes(lambda: cell.output.inner_text().count(" b"), what="it writes on"):
        pass
    assert "a0 a1 a2" in cell.text()
    assert "3 tokens, ended by itself" in cell.text()
    assert "is writing" in cell.text()
    assert cell.button("Ask").is_disabled()
    cell.button("Stop").press("Space")
    until(lambda: "stopped by you" in cell.text(), 20, "Stop is heard")
    until(lambda: cell.button("Ask").is_enabled(), 20, "the box can be asked again")
    lab.shot("stopped")


def test_the_dashboard_is_one_figure_and_its_stop_is_heard_while_the_cell_runs(lab):
    """Figures that pile up while a model trains, or a button that does nothing until the training is over."""
    notebook = lab.open(lab.write("live.ipynb", MADE_UP, "print('ended at', samples.train(widgets.Live()))"))
    notebook.run_all()
    cell = notebook.cell("widgets.Live()")
    first = cell.pictures(60)
    until(lambda: re.search(r"step [1-9]\d* of 4000", cell.text()), 20, "the line of text")
    # drawing may take 2 % of the time, so that the second picture comes after fifty times what the first one took
    until(lambda: cell.pictures() != first, 180, "the figure is drawn again")
    lab.shot("running")
    assert len(first) == len(cell.pictures()) == 1
    assert not notebook.is_idle()
    cell.button("Stop").press("Space")
    notebook.wait_until_idle(30)
    lab.shot("stopped")
    assert not notebook.errors()
    ended = re.search(r"ended at (\d+)", notebook.printed())
    assert 0 < int(ended[1]) < samples.STEPS_OF_RUN
    assert len(cell.pictures()) == 1
    assert cell.button("Stop").count() == 0
