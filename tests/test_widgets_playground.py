"""Losses to play with. Run alone: python -m pytest tests/test_widgets_playground.py"""

import base64
import math

import pandas as pd
import pytest

from hermes_nb import views, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.history import LOOKS, Looks
from hermes_nb.plots import losses
from hermes_nb.widgets.playground import NAMES, SAYS, playground_line

LN3 = math.log(3)
EVIL = "<script>alert(1)</script>$x$\u202e"


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What reaches the notebook."""
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw=False: seen.append((data, raw)))
    return seen


def looked(margins, beta=0.5, run="mine") -> Looks:
    """A run that looked at step 0, where every margin is 0, and at step 10."""
    rows = [(run, s, k, 0.0, 0.0, m, 0.0, m if s else 0.0) for s in (0, 10) for k, m in enumerate(margins)]
    return Looks(run, beta, [{}] * len(margins), pd.DataFrame(rows, columns=LOOKS), {})


def state(panel) -> tuple:
    return panel.outputs["image"].value, panel.outputs["line"].value


def values(panel) -> dict:
    return {name: control.value for name, control in panel.controls.items()}


def test_one_output_holds_the_widget_and_the_first_picture(shown):
    """Readers without a kernel see the figure, those with one the widget, and not both."""
    panel = widgets.loss_playground([-LN3, LN3])
    ((bundle, raw),) = shown
    assert raw
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert base64.b64decode(bundle["image/png"]) == panel.outputs["image"].value
    assert len(panel.outputs["image"].value) < 80_000
    assert "2 pairs of a run" in bundle["text/plain"]
    assert isinstance(panel, widgets.Panel)


def test_it_starts_as_dpo_at_the_first_step():
    """Another start than the notebook's text: sigmoid, beta 0.1, margin 0, no smoothing; loss ln 2, pull 0.05."""
    panel = widgets.loss_playground()
    assert values(panel) == {"kind": "sigmoid", "beta": pytest.approx(0.1), "margin": 0.0, "smoothing": 0.0}
    line = panel.outputs["line"].value
    assert "loss 0.6931; gradient weight +0.5; pull on each log-prob beta x weight = 0.1 x 0.5 = +0.05" in line
    assert "chosen up, rejected down" in line
    assert "The run" not in line


@pytest.mark.parametrize(("name", "value"), [("kind", "hinge"), ("beta", 0.5), ("margin", -2.0), ("smoothing", 0.2)])
@pytest.mark.parametrize("margins", [(), (-LN3, LN3)])
def test_every_control_changes_picture_and_line(name, value, margins):
    """A slider that moves nothing teaches that its number does not matter."""
    panel = widgets.loss_playground(margins)
    picture, line = state(panel)
    panel.controls[name].value = value
    assert panel.outputs["image"].value != picture
    assert panel.outputs["line"].value != line


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_every_loss_can_be_chosen_and_says_what_it_is(kind):
    """A loss without its sentence, or an option that raises in a callback, where nobody sees it."""
    panel = widgets.loss_playground([-0.5, 0.5])
    assert [option for _, option in panel.controls["kind"].options] == list(losses.LOSSES)
    assert set(NAMES) == set(SAYS) == set(losses.LOSSES)
    panel.controls["smoothing"].value = 0.1
    panel.controls["kind"].value = kind
    assert SAYS[kind] in panel.outputs["line"].value


def test_a_loss_that_needs_smoothing_says_so_and_comes_back():
    """exo_pair at smoothing 0 divides by nothing: a sentence, no exception, no figure of another loss."""
    panel = widgets.loss_playground([0.5])
    picture = panel.outputs["image"].value
    panel.controls["kind"].value = "exo_pair"
    assert panel.outputs["line"].value == f"<p><b>{losses.missing('exo_pair', 0)}</b></p>"
    assert panel.outputs["image"].value != picture
    panel.controls["smoothing"].value = 0.1
    assert "Your pair" in panel.outputs["line"].value


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_smoothing_that_does_nothing_is_said(kind):
    """A slider without effect looks broken; TRL's sigmoid without cDPO would surprise in the next run."""
    line, plain = playground_line(kind, 0.5, 0.1, 0.2), playground_line(kind, 0.5, 0.1, 0.2 * (kind == "exo_pair"))
    changes = losses.loss_at(kind, 0.5, 0.1, 0.2) != losses.loss_at(kind, 0.5, 0.1, 0.0 if kind != "exo_pair" else 0.1)
    assert ("does not use label smoothing" in line) == (not changes)
    assert ("TRL 1.16's own sigmoid ignores label_smoothing" in line) == (kind == "sigmoid")
    assert "does not use label smoothing" not in plain
    assert "ignores" not in plain


def test_the_last_look_of_a_run_is_the_rug():
    """By hand: -ln 3, ln 3, ln 3: mean loss (1.3863 + 2 x 0.2877) / 3 = 0.6539; pulls 3/4 against 1/4: 60 %, 3 x."""
    panel = widgets.loss_playground(looked([-LN3, LN3, LN3]))
    assert panel.controls["beta"].value == pytest.approx(0.5), "the run's own"
    line = panel.outputs["line"].value
    assert "<b>The run's 3 pairs</b> (mine, step 10): mean loss 0.6539; 1 of 3 (33%)" in line
    assert "have a margin below 0 and 60% of the total pull: one of them pulls 3 times as hard as one of" in line
    assert "times the measured ones" not in line
    two = playground_line("sigmoid", 0.0, 0.1, 0.0, [-LN3, -LN3, LN3])
    assert "86% of the total pull: one of them pulls 3 times" in two, "6 of 7 quarters, of two pairs"


def test_another_beta_moves_the_rug_with_it():
    """The log-probs stay, the margin is beta times them: by hand 0.5 to 1 doubles; 2 ln 3 has loss log(1 + 1/9)."""
    panel = widgets.loss_playground(looked([LN3]))
    panel.controls["beta"].value = 1.0
    assert "mean loss 0.1054" in panel.outputs["line"].value
    assert "margins are 2 times the measured ones" in panel.outputs["line"].value
    other = widgets.loss_playground(looked([LN3]), beta=1.0)
    assert state(other) == state(panel)
    plain = widgets.loss_playground([LN3], beta=1.0)
    assert "mean loss 0.2877" in plain.outputs["line"].value, "plain margins were measured with the beta given"


def test_pairs_off_the_axis_and_without_a_number_are_counted():
    """A run that diverged has margins that no axis holds, or none at all."""
    line = widgets.loss_playground([-9.0, 7.0, 1.0, float("nan"), float("inf")]).outputs["line"].value
    assert "2 margins are not finite and left out. <b>The run's 3 pairs</b>" in line
    assert "2 lie beyond the axis" in line
    assert "1 margins are not finite" in widgets.loss_playground([float("nan")]).outputs["line"].value


def test_pairs_that_all_lie_on_one_side_have_no_other_side():
    """By hand 0 / 0: a share of nothing, or a ratio to nobody."""
    for margins in ([], [1.0, 2.0], [-1.0], [0.0]):
        assert "as hard as" not in widgets.loss_playground(margins).outputs["line"].value
    assert "as hard as" not in playground_line("hinge", 0.0, 0.1, 0.0, [-1.0, 2.0]), "the others do not pull at all"
    assert "0% of the total pull" in playground_line("hinge", 0.0, 0.1, 0.0, [2.0])


@pytest.mark.parametrize(
    ("kind", "margin", "way"),
    [("ipo", 2.0, "chosen down, rejected up"), ("ipo", 0.0, "chosen up"), ("hinge", 2.0, "nothing moves")],
)
def test_the_way_of_the_pull_is_said(kind, margin, way):
    """Past its target IPO pulls back: a sign that is easy to miss in a number."""
    assert way in playground_line(kind, margin, 0.1, 0.0)


def test_a_run_s_name_never_becomes_an_element():
    """A folder may be called anything."""
    line = widgets.loss_playground(looked([0.5], run=EVIL)).outputs["line"].value
    assert views.text(EVIL) in line
    assert "<script" not in line


@pytest.mark.parametrize("beta", [0.002, 3.0])
def test_a_beta_beyond_the_slider_widens_it(beta):
    """Clipped, the slider would scale the run's margins by a beta it never had."""
    panel = widgets.loss_playground(looked([0.5], beta=beta))
    assert panel.controls["beta"].value == pytest.approx(beta)
    assert "times the measured ones" not in panel.outputs["line"].value


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_is_none_is_refused(beta):
    """Margins divided by a beta of 0 are infinite."""
    with pytest.raises(DataProblem, match="must be above 0"):
        widgets.loss_playground([0.5], beta=beta)
    with pytest.raises(DataProblem, match="must be above 0"):
        widgets.loss_playground(looked([0.5], beta=beta))


@pytest.mark.parametrize("problem", [DataProblem, ValueError, OverflowError])
def test_a_problem_in_a_callback_is_a_sentence(monkeypatch, problem):
    """An exception in a callback is lost: the figure would stand still without a word."""
    panel = widgets.loss_playground()

    def fail(*args, **more):
        raise problem("no <such> loss")

    monkeypatch.setattr(losses, "loss_curves", fail)
    panel.controls["margin"].value = 1.0
    assert panel.outputs["line"].value == "<p>no &lt;such&gt; loss</p>"
    with pytest.raises(problem, match="no <such> loss"):  # at first it is the cell's: a picture would be empty
        widgets.loss_playground()
