"""The notebooks of the course in JupyterLab. Run alone: python -m pytest -m browser tests/browser/test_course.py -k 01

Trains anew (half a minute to five minutes a notebook), or replays the runs of HERMES_BROWSER_RUNS. Solutions are not
filled in: this is what a reader sees at the first Run All.
"""

import pytest

from browser.server import until
from hermes_nb import course

pytestmark = pytest.mark.browser

NOTEBOOKS = {path.stem: path for path in course.find([])}
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # all that a notebook asks of another machine
LIMIT = 1800  # seconds for a notebook; on two cores that others use too


def bare(path, folder) -> str:
    """A copy of a notebook without the committed outputs, so that no old picture is taken for a new one."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / path.name)
    return path.name


def slide(cell, handle, look):
    """One key moves the slider, and what `look` returns changes; the other way where it stands at its end."""
    before = look()
    place = handle.get_attribute("aria-valuetext")
    for key in ("ArrowLeft", "ArrowRight"):
        handle.press(key)
        if handle.get_attribute("aria-valuetext") != place:
            break
    until(lambda: look() != before, 60, f"{cell.here} follows its slider")


def explore(cell):
    """Every slider redraws the one figure."""
    handles = cell.output.locator(".noUi-handle")
    assert handles.count() >= 1
    for number in range(handles.count()):
        slide(cell, handles.nth(number), cell.pictures)
        assert len(cell.pictures()) == 1


def one_picture(cell):
    """The dashboard has become one picture, without a button."""
    assert len(cell.pictures()) == 1
    assert cell.button("Stop").count() == 0


def explore_margins(cell):
    """The step moves figure and numbers."""
    slide(cell, cell.slider("step"), lambda: (cell.pictures()[0], cell.text()))


def play(cell):
    """Beta moves curve and words."""
    slide(cell, cell.slider("beta"), lambda: (cell.pictures()[0], cell.text()))
    assert len(cell.pictures()) == 1


def hover(cell):
    """Every token has its figure, and the step changes them."""
    titles = cell.output.locator("kbd[title]")
    slide(cell, cell.slider("step"), lambda: titles.evaluate_all("all => all.map(one => one.title)"))


def cast(cell):
    """A vote brings the next pair."""
    with cell.changes(cell.text, what="the next pair"):
        cell.button("Left").press("Space")


def page(cell):
    """The next pair."""
    with cell.changes(cell.text, what="the next pair"):
        cell.button("next").press("Space")


def cut(cell):
    """The slider of max_length cuts tokens."""
    slide(cell, cell.slider("max_length"), cell.text)


def ready(cell):
    """The box can be asked; asking a model is a matter of minutes here."""
    assert cell.button("Ask").is_enabled()


CHECKS = {
    "widgets.explore(": explore, "widgets.Live(": one_picture, "widgets.margin_explorer(": explore_margins,
    "widgets.loss_playground(": play, "widgets.token_heat(": hover, "widgets.vote(": cast,
    "widgets.pair_browser(": page, "widgets.token_view(": cut, "widgets.chat(": ready,
}  # fmt: skip


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_controls_work(lab, name):
    """A cell that fails or warns only in JupyterLab, a figure that does not follow its slider, figures that pile up."""
    notebook = lab.open(bare(NOTEBOOKS[name], lab.server.root))
    notebook.run_all()
    notebook.wait_until_idle(LIMIT)
    lab.shot("all cells have run")
    assert notebook.errors() == []
    found = [(call, cell) for call in CHECKS for cell in notebook.cells(call)]
    assert found, "no interactive cell, where every lesson has one"
    for number, (call, cell) in enumerate(found, 1):
        cell.here.scroll_into_view_if_needed()
        CHECKS[call](cell)
        lab.shot(f"{number} {call}")
    assert {name: value for name, value in lab.harm().items() if value != [BADGE]} == {}
