"""Rows that try to act, in JupyterLab. Run alone: python -m pytest -m browser tests/browser/test_hostile.py

Every payload of `payloads.py` goes through every viewer and widget. A widget that shows one row at a time is stepped
through all rows by a button that the test presses once the widget stands; a guard in the page notes what each makes.
"""

import json
from pathlib import Path

import pytest
from payloads import PAYLOADS

from browser.server import until

pytestmark = pytest.mark.browser

TESTS = Path(__file__).resolve().parent.parent
LAST = "the last of all rows"
GO = """
def go(step):
    button = ipywidgets.Button(description="go")
    button.on_click(lambda _: step())
    display(button)
"""
START = f"""
import sys
sys.path.append({str(TESTS)!r})
import ipywidgets
import payloads
import threading
from datasets import Dataset
from IPython.display import HTML, display
from matplotlib.figure import Figure
from pandas import DataFrame
from PIL import Image
from hermes_nb import audit, generate, history, models, views, widgets

TEXTS = [*payloads.PAYLOADS, {LAST!r}]
READABLE = [text.encode("utf-8", "replace").decode() for text in TEXTS]  # no tokenizer reads lone surrogates
ROWS = [payloads.pair(text, row) for row, text in enumerate(TEXTS)]
tokenizer = models.tokenizer("builtin", "chatml")
Figure.savefig = lambda figure, out, **options: Image.new("RGB", (1, 1)).save(out, "PNG")  # a picture cannot act
{GO}
def looks():
    pairs = [row | {{"pair": i, "pieces": [[text, *text.split()]] * 2}}
             for i, (row, text) in enumerate(zip(ROWS, TEXTS))]
    names = ("logp_chosen", "logp_rejected", "reward_chosen", "reward_rejected", "margin")
    table = [{{"run": TEXTS[0], "step": step, "pair": p["pair"]}} | dict.fromkeys(names, step * p["pair"] / 50)
             for p in pairs for step in (0, 5)]
    tokens = {{(step, p["pair"]): tuple([-1.0 + step] * len(side) for side in p["pieces"])
              for p in pairs for step in (0, 5)}}
    return history.Looks(TEXTS[9], 0.1, pairs, DataFrame(table), tokens)
"""
VIEWERS = {
    "pair": "for row in ROWS:\n    widgets.show_pair(row)",
    "tokens": """
for text in READABLE:
    widgets.show_tokens(tokenizer, payloads.pair(text))
for text in TEXTS:
    display(HTML(views.tokens([text, *text.split()], ["prompt"] * (1 + len(text.split())), title=text)))
""",
    "prompts": "for text in READABLE:\n    widgets.show_prompts(tokenizer, payloads.pair(text)['prompt'])",
    "table": "widgets.table([{'text': text, 'row': i} for i, text in enumerate(TEXTS)])",
    "heads": "for text in TEXTS:\n    display(widgets.table([{text: text}]))",
    "audit": """
rows = Dataset.from_list([payloads.pair(text, row) for row, text in enumerate(READABLE)])
found = audit.pairs(rows, tokenizer, max_length=200)
found.report["languages"] |= {text: 1 for text in TEXTS}
widgets.show_audit(found)
""",
    "heat": """
for text in TEXTS:
    display(HTML(widgets.heat_html(([text], [text, text]), ([0.5], [-0.1, 0.2]))))
""",
}
WIDGETS = {  # the code, and what stands in the output when the last row is shown
    "vote": ("""
ballot = widgets.vote([{"question": t, "sft": t, "dpo": t + " x", "rule": "dpo"} for t in READABLE])
go(lambda: [ballot.box.children[2].children[0].click() for _ in TEXTS[1:]])
""", "{n} of {n}"),
    "token_view": ("""
panel = widgets.token_view(tokenizer, ROWS)
def step(panel=panel):
    for row in range(len(ROWS)):
        panel.controls["row"].value = row
go(step)
""", LAST),
    "pair_browser": ("""
panel = widgets.pair_browser(ROWS)
def step(panel=panel):
    for row in range(1, len(ROWS) + 1):
        panel.controls["pair"].value = row
go(step)
""", LAST),
    "margin_explorer": ("""
panel = widgets.margin_explorer({TEXTS[0]: looks(), TEXTS[1]: looks()}, names={text: text for text in TEXTS})
def step(panel=panel):
    for row in range(len(ROWS)):
        panel.controls["pair"].value = row
go(step)
""", LAST),
    "token_heat": ("""
panel = widgets.token_heat(looks(), 0)
def step(panel=panel):
    for row in range(len(ROWS)):
        panel.controls["pair"].value = row
go(step)
""", LAST),
    "chat": ("""
def speak(messages, temperature, say, stop, max_new_tokens=128):
    text = messages[-1]["content"]
    say(text)
    return generate.Answer(text, True, 1)
def boom(messages, **options):
    raise ValueError(messages[-1]["content"])
panel = widgets.chat({TEXTS[0]: speak, TEXTS[9]: boom}, tokenizer, system=READABLE[1], question=READABLE[2])
def step(panel=panel):
    for text in READABLE:
        panel.controls["question"].value = text
        panel.controls["ask"].click()
        [thread.join() for thread in threading.enumerate() if thread.name == "chat"]
go(step)
""", LAST),
}  # fmt: skip
RAW = f"""
import ipywidgets
from IPython.display import HTML, display
{GO}
box = ipywidgets.HTML("wait")
display(box)

def step():
    box.value = "<b id=from-data>gone at once</b>"
    box.value = "done"
    display(HTML('<img src=x onerror="window.__hit=1">'))

go(step)
display(HTML('<img src=x onerror="window.__hit=1">'))
display(HTML("<b class=from-data>x</b>"))
display(HTML("<img src=http://example.invalid/seen.png>"))
display(HTML("<script>alert('hello')</script>"))
"""


def titled(codes):
    """The cells of a notebook, each with its name on top, by which it is found."""
    return [f"# {name}\n{code.strip()}" for name, code in codes.items()]


def test_the_guards_see_what_raw_html_does(lab):
    """Guards that see nothing would pass every test below."""
    cell = lab.run("raw.ipynb", RAW).cell("ipywidgets.HTML(")
    until(lambda: "wait" in cell.text(), 20, "the widget stands")
    cell.button("go").click()
    until(lambda: "done" in cell.text(), 20, "the widget has changed")
    until(lambda: len(lab.harm()) == 4, 20, "all four guards")
    found = lab.harm()
    assert found["hits"] >= 1
    assert any("gone at once" in html for html in found["elements"])
    assert set(found["requests"]) == {"http://example.invalid/seen.png"}
    assert found["dialogs"] == ["hello"]


def test_no_row_acts_in_a_viewer(lab):
    """A script, a link or a button that a public data set brings into the reader's notebook."""
    notebook = lab.run("viewers.ipynb", START, *titled(VIEWERS), limit=240)
    for name in VIEWERS:
        cell = notebook.cell(f"# {name}\n")
        until(lambda: LAST in cell.text(), 60, f"{name} shows the last row")  # noqa: B023
        lab.shot(name)
        assert lab.harm() == {}, name


def test_no_row_acts_in_a_widget(lab):
    """The same through the widgets' own way into the page, and in the form that a reader without a kernel sees."""
    notebook = lab.run("widgets.ipynb", START, *titled({name: code for name, (code, _) in WIDGETS.items()}), limit=240)
    count = len(PAYLOADS) + 1
    for name, (_, end) in WIDGETS.items():
        cell = notebook.cell(f"# {name}\n")
        cell.button("go").click()
        until(lambda: end.format(n=count) in cell.text(), 90, f"{name} shows the last row")  # noqa: B023
        lab.shot(name)
        assert lab.harm() == {}, name
    (lab.server.root / "static.json").write_text(json.dumps(notebook.html_forms()))
    show = "import json\nfrom IPython.display import HTML, display\nfor html in json.load(open('static.json')):\n"
    lab.run("static.ipynb", show + "    display(HTML(html))")
    assert lab.harm() == {}
