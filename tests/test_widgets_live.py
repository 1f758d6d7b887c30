"""The live dashboard. Run alone: python -m pytest tests/test_widgets_live.py"""

import pytest

from hermes_nb import history, plots, widgets
from hermes_nb.widgets import events, live


class Clock:
    """A clock that moves when it is told to; drawing takes `cost` seconds of it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def shown(monkeypatch):
    """What reaches the notebook: (how, what)."""
    import IPython.display

    seen = []

    class Handle:
        def update(self, what):
            seen.append(("update", what))

    def display(what, raw=False, display_id=None):
        seen.append(("display", what))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(events, "kernel", lambda: object())
    return seen


@pytest.fixture
def watched(shown, monkeypatch):
    """A notebook with somebody in front of it."""
    monkeypatch.setattr(events, "somebody_looks", lambda: True)
    return shown


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(live, "time", made)
    return made


def rows(steps, **more):
    log = {"loss": 0.5, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/accuracies": 0.5}
    return [r for s in range(1, steps + 1) for r in history.entries({**log, "rewards/margins": s, **more}, s)]


def test_one_figure_is_drawn_again_in_its_place_and_becomes_a_picture(watched):
    """Stacked figures fill the page, and a widget without its kernel shows nothing."""
    dashboard = widgets.Live(every=0)
    pictures = []
    for step in range(1, 6):
        assert dashboard(rows(step), step, 5) is False
        dashboard.drawn_at, dashboard.begun = -1e9, -1e9  # time has passed
        pictures.append(dashboard.panel.outputs["picture"].value)
    assert [how for how, _ in watched] == ["display", "update"]
    assert "application/vnd.jupyter.widget-view+json" in watched[0][1]
    assert watched[1][1].data.startswith(b"\x89PNG")
    assert len(set(pictures[:4])) == 4


def test_a_picture_comes_at_most_twice_a_second_and_costs_two_percent(watched, clock, monkeypatch):
    """Drawing that takes 0.02 s may come once a second and no sooner; with 0.1 s every five seconds."""
    for cost, most in ((0.001, 0.5), (0.02, 1.0), (0.1, 5.0)):
        dashboard, drawn = widgets.Live(), []
        board = dashboard.board

        class Board:
            data = {}

            def __init__(self, *given): ...

            def feed(self, rows): ...

            def figure(self):
                return plots.figure(1, 1.0)[0]

            def picture(self, cost=cost, drawn=drawn):
                clock.now += cost
                drawn.append(clock.now)
                return b""

        monkeypatch.setattr(plots, "Board", Board)
        begun = clock.now
        for step in range(1, 3001):
            dashboard(rows(1), step, 10_000)
            clock.now += 0.01
        gaps = [b - a for a, b in zip(drawn, drawn[1:], strict=False)]
        assert board is None
        assert min(gaps) >= 0.5
        assert min(gaps) == pytest.approx(most, abs=0.05)
        assert dashboard.seconds <= 0.02 * (clock.now - begun) + cost
        assert len(drawn) >= 0.8 * (clock.now - begun) / most - 1


def test_the_line_of_text_goes_on_where_a_picture_may_not(watched, clock):
    """A picture that costs much comes seldom; that the run is alive must be seen all the same, twice a second."""
    dashboard, seen = widgets.Live(), []
    for step in range(1, 400):
        dashboard(rows(1), step, 10_000)
        dashboard.seconds = 1e9  # no time left for pictures
        seen.append(dashboard.panel.outputs["text"].value)
        clock.now += 0.01
    assert dashboard.count == 1
    assert len(set(seen)) == 8
    assert seen[0].startswith("step 1 of 10000")


def test_the_last_picture_holds_every_step(watched):
    """A curve that ends before the run does hides its end."""
    dashboard = widgets.Live()
    for step in range(1, 31):
        dashboard(rows(step), step, 30)
    margin = dashboard.board.data["train", "margin"]
    assert margin == (list(range(1, 31)), [float(v) for v in range(1, 31)])
    assert [how for how, _ in watched] == ["display", "update"]


def test_the_button_ends_the_run_after_this_step(watched):
    """A run that cannot be stopped is killed, and its adapter is lost."""
    dashboard = widgets.Live()
    assert dashboard(rows(1), 1, 100) is False
    dashboard.panel.controls["stop"].click()
    assert dashboard.panel.controls["stop"].disabled
    assert "adapter" in dashboard.panel.outputs["text"].value
    assert dashboard(rows(2), 2, 100) is True
    assert [how for how, _ in watched] == ["display", "update"], "and the picture is the last one"


def test_with_nobody_in_front_there_is_a_bar_and_one_picture(shown, monkeypatch, capsys):
    """An executed notebook keeps the whole curve, and draws it once."""
    monkeypatch.setattr(events, "somebody_looks", lambda: False)
    dashboard = widgets.Live()
    for step in range(1, 4):
        dashboard(rows(step), step, 3)
    assert [how for how, _ in shown] == ["display"]
    assert dashboard.count == 0
    assert "3/3" in capsys.readouterr().err


def test_in_a_terminal_there_is_a_bar_alone(monkeypatch, capsys):
    """Nobody can see a picture there."""
    monkeypatch.setattr(events, "kernel", lambda: None)
    dashboard = widgets.Live()
    assert [dashboard(rows(step), step, 2) for step in (1, 2)] == [False, False]
    assert "2/2" in capsys.readouterr().err


def test_the_line_tells_speed_memory_and_time_left():
    """10 steps at 2 s and 400 tokens each: 200 tokens a second; 90 steps of 2 s and 2 looks of 30 s are 4 minutes."""
    steps = list(range(1, 11))
    data = {
        ("train", "seconds"): (steps, [2.0 * s for s in steps]),
        ("train", "tokens"): (steps, [400.0 * s for s in steps]),
        ("train", "peak_gb"): (steps, [2.71] * 10),
    }
    told = "step 10 of 100 \u00b7 200 tokens a second \u00b7 2.7 GB at most \u00b7 about 3 min left"
    assert live.status(data, 10, 100) == told
    looks = {("looks", "seconds"): ([0, 10], [99.0, 30.0]), ("looks", "to_come"): ([0, 10], [3, 2])}
    assert live.status(data | looks, 10, 100) == told.replace("3 min", "4 min")
    assert live.status({("train", "peak_gb"): ([1], [2.71])}, 1, 100) == "step 1 of 100 \u00b7 2.7 GB at most"
    assert [live.duration(s) for s in (42, 170, 4800)] == ["42 s", "3 min", "1 h 20 min"]


def test_a_run_that_ends_otherwise_leaves_a_picture_too(watched):
    """Ctrl-C and errors left a box with a dead button, and nothing in the saved notebook."""
    dashboard = widgets.Live()
    for step in (1, 2):
        dashboard(rows(step), step, 100)
    dashboard.over(rows(3))
    assert [how for how, _ in watched] == ["display", "update"]
    assert dashboard.board.data["train", "margin"][0] == [1, 2, 3]


def test_scores_after_the_last_step_add_no_second_picture(shown, monkeypatch):
    """Held-out scores are logged at the last step again: the picture must be replaced, not followed by another."""
    monkeypatch.setattr(events, "somebody_looks", lambda: False)
    dashboard = widgets.Live()
    for _ in range(2):
        dashboard(rows(2), 2, 2)
    dashboard.over(rows(2))
    assert [how for how, _ in shown] == ["display", "update", "update"]


def test_a_dashboard_can_be_used_for_the_next_run(watched):
    """Stopped once, it would have stopped every later run after its first step, and drawn it into the old figure."""
    dashboard = widgets.Live()
    dashboard(rows(1), 1, 10)
    dashboard.stop()
    assert dashboard(rows(2), 2, 10) is True
    dashboard.over(rows(2))
    sft = [r for r in rows(1) if r["metric"] == "loss"]
    assert dashboard(sft, 1, 10) is False
    assert [panel.plan.name for panel in dashboard.board.panels] == ["loss"]
    assert [how for how, _ in watched] == ["display", "update", "update", "display"]


def test_a_run_that_goes_on_has_a_bar_that_does(shown, monkeypatch, capsys):
    """From step 50 of 100 on, a bar that begins at 0 shows a speed and a time that are not so."""
    monkeypatch.setattr(events, "somebody_looks", lambda: False)
    dashboard = widgets.Live()
    dashboard(rows(1), 51, 100)
    assert (dashboard.bar.initial, dashboard.bar.n) == (50, 51)


def test_only_core_widgets_are_used(watched):
    """ipywidgets 7.7.1 and 8.1, without any extension."""
    import ipywidgets

    dashboard = widgets.Live()
    dashboard(rows(1), 1, 3)
    found, todo = set(), [dashboard.panel.box]
    while todo:
        part = todo.pop()
        found.add(type(part).__name__)
        todo += part.children if isinstance(part, ipywidgets.Box) else []
    assert found == {"VBox", "HBox", "Button", "HTML", "Image"}
