"""Everything that shows rows, against rows that try to act. Run alone: python -m pytest tests/test_widgets_hostile.py

A view or a widget is tested by one line in `VIEWS` or `WIDGETS`: a function of a text from data (and a tokenizer)
that returns HTML, or a box. The payloads are in payloads.py; here every one of them stands wherever data can stand.
"""

import copy
import importlib.util
import re
from functools import cache
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure
from payloads import NAMED, pair, rows, talk
from PIL import Image

from hermes_nb import audit, history, plots, templates, views, widgets
from hermes_nb.generate import Answer
from hermes_nb.plots import explorer, losses

ELEMENTS = {
    "div", "table", "thead", "tbody", "tr", "th", "td", "b", "br", "span", "ins", "del", "mark", "i", "kbd",
    "details", "summary", "p",
}  # fmt: skip
HIDDEN = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *map(chr, views.PLAIN)} - {"\n"}
ACTIVE = ("window.__hit", "from-data", "\x1b", "\u202e", "\ud800")
LOOK = re.compile(
    r" *(all|background(-color)?|border(-[a-z]+)*|color|display|font(-[a-z]+)?|line-height|(margin|padding)(-[a-z]+)?|"
    r"(max-|min-)?(width|height)|opacity|overflow(-[xy]|-wrap)?|table-layout|text-[a-z]+|vertical-align|white-space)"
    r" *: *(?!.*(url|expression|var|attr))[\w#%., ()-]{1,40}"
)
CONTROL = re.compile(r"\\x[89][0-9a-f]")  # how views.text spells a control character
FIGURE = re.compile(r"[+-]?\d+(\.\d+)?")
LONG = 10_000  # html5lib takes half a second for more; such are boxes of tokens, which `VIEWS` has with fewer
HTML5LIB = importlib.util.find_spec("html5lib") is not None


class Recorder:
    """`IPython.display.display`, keeping what reaches the notebook."""

    def __init__(self):
        self.seen = []

    def __call__(self, data, raw=False):
        self.seen.append(data if isinstance(data, dict) else {"text/html": data._repr_html_()})


def blank(figure, out, **options) -> None:
    """`Figure.savefig` that draws nothing: a picture cannot act, and a hundred of them take half a minute."""
    Image.new("RGB", (1, 1)).save(out, "PNG")


@pytest.fixture
def shown(monkeypatch):
    import IPython.display

    seen = Recorder()
    monkeypatch.setattr(IPython.display, "display", seen)
    monkeypatch.setattr(Figure, "savefig", blank)
    figures = (explorer, "margins_at"), (explorer, "margin_over_steps"), (losses, "loss_curves")
    for where, name in (*figures, (plots, "heat_pair"), (plots, "answers")):
        monkeypatch.setattr(where, name, lambda *data, **more: Figure())
    return seen.seen


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


def found(words: str):
    """An audit in which sources, details, excerpts and languages are data."""
    dropped = [{"source": words, "row": 1, "reason": "roles", "detail": words, "excerpt": words}]
    report = {
        "rows": 4, "kept": 3, "dropped": 1, "max_length": 64, "reasons": {"roles": 1},
        "warnings": {"near duplicate": 2}, "lengths": {"row": {"min": 4, "p50": 5, "max": 9}}, "languages": {words: 3},
    }  # fmt: skip
    return audit.Audit([], dropped, report)


def figure(words: str):
    """A function that draws data as a title, for `explore`."""

    def draw(size):
        fig = Figure(figsize=(2, 1))
        fig.suptitle(words[:80].encode("utf-8", "replace").decode(), parse_math=False)
        return fig

    return draw


def slider():
    from ipywidgets import IntSlider

    return IntSlider(1, 1, 3, description="size")


def looked(words: str) -> history.Looks:
    """A run of two looks at two pairs, with data as its name, texts, kinds, sources and tokens."""
    sides = {"pieces": [[words, "one"], [words]], "stops": [False, False]}
    pairs = [pair(words) | sides | {"pair": 0}, pair("other") | sides | {"pair": 1}]
    rows = [("run", s, p, 0.0, 0.0, 0.1 * s, 0.0, 0.1 * s) for s in (0, 2) for p in (0, 1)]
    tokens = {(s, p): [[-1.0 + s, -2.0], [-3.0 - s]] for s in (0, 2) for p in (0, 1)}
    return history.Looks(words, 0.1, pairs, pd.DataFrame(rows, columns=history.LOOKS), tokens)


def speakers(words: str) -> dict:
    """Two models: one named and speaking as data does, one that breaks off with it."""

    def speak(messages, temperature, say, stop, max_new_tokens):
        say(words)
        return Answer(words, True, 1)

    def fail(messages, **how):
        raise ValueError(words)

    return {words: speak, "other": fail}


def role(words: str) -> dict:
    """A pair whose roles are data too."""
    return {part: [turn | {"role": words} for turn in pair(words)[part]] for part in ("prompt", "chosen", "rejected")}


VIEWS = {  # every view: (words, tokenizer) -> HTML
    "text": lambda words, tokenizer: views.text(words),
    "pair": lambda words, tokenizer: views.pair(pair(words)),
    "pair with roles": lambda words, tokenizer: views.pair(role(words)),
    "tokens": lambda words, tokenizer: views.tokens([words] * 5, list(views.ROLES), 4, words),
    "audit": lambda words, tokenizer: views.audit(found(words)),
    "prompts": lambda words, tokenizer: views.prompts(tokenizer, pair(words)["prompt"] + pair(words)["rejected"]),
    "table": lambda words, tokenizer: widgets.table([{words: words, "n": 1}]).data,
}
SHOWS = {  # everything that shows HTML as the output of a cell: (words, tokenizer)
    "show_pair": lambda words, tokenizer: widgets.show_pair(pair(words)),
    "show_tokens": lambda words, tokenizer: widgets.show_tokens(tokenizer, pair(whole(words)), "rejected", 20),
    "show_prompts": lambda words, tokenizer: widgets.show_prompts(tokenizer, pair(words)["prompt"]),
    "show_audit": lambda words, tokenizer: widgets.show_audit(found(words)),
}
WIDGETS = {  # every widget: (words, tokenizer) -> box
    "explore": lambda words, tokenizer: widgets.explore(figure(words), size=slider()),
    "vote": lambda words, tokenizer: widgets.vote([dict.fromkeys(("question", "sft", "dpo"), words)] * 2).box,
    "token_view": lambda words, tokenizer: widgets.token_view(tokenizer, [pair(words), talk(words)]).box,
    "token_view of a conversation": lambda words, tokenizer: widgets.token_view(tokenizer, talk(words), 12).box,
    "pair_browser": lambda words, tokenizer: widgets.pair_browser([pair(words), pair("other")]).box,
    "pair_browser without roles": lambda words, tokenizer: widgets.pair_browser([pair(words), role(words)]).box,
    "margin_explorer": lambda words, tokenizer: widgets.margin_explorer(looked(words)).box,
    "margin_explorer of runs": lambda words, tokenizer: (
        widgets.margin_explorer({words: looked(words), "b": looked(words)}, {words: words}).box
    ),
    "token_heat": lambda words, tokenizer: widgets.token_heat(looked(words)).box,
    "chat": lambda words, tokenizer: widgets.chat(speakers(words), tokenizer, "", "Why?", {words: words}).box,
    "chat without example": lambda words, tokenizer: widgets.chat(speakers(words), question="Why?").box,
    "loss_playground": lambda words, tokenizer: widgets.loss_playground(looked(words)).box,
}


NAMING = "margin", "chat"  # widgets whose text/plain names runs or models, cut and cleaned by `label`


def whole(words: str) -> str:
    """`words` with every lone surrogate replaced, for what refuses one."""
    return words.encode("utf-8", "replace").decode()


def parts(box) -> list:
    """Every widget of a tree."""
    return [box, *(part for child in getattr(box, "children", ()) for part in parts(child))]


def texts_of(box):
    """Every text of a widget tree as (kind, text): `html` is obeyed, `name` is ours, `option` and `value` text.

    In ipywidgets 7 a description is HTML; a placeholder and a tooltip stand in attributes. So names hold no data.
    """
    for part in parts(box):
        sent, kind = set(part.keys), type(part).__name__  # `keys` are the traits that reach the page
        if "value" in sent and isinstance(part.value, str):
            yield ("html" if kind in ("HTML", "HTMLMath", "Label") else "value"), part.value
        for name in sent & {"description", "placeholder", "tooltip", "description_tooltip", "titles", "_titles"}:
            yield "name", f"{kind}.{name}: {getattr(part, name)}"
        if "_options_labels" in sent:
            yield from (("option", option) for option in part._options_labels)


class Strict(HTMLParser):
    """Elements, attributes and texts as the simplest reader sees them; comments and declarations are not allowed."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.attributes, self.texts, self.other = set(), set(), [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= set(attrs)

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.other.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def browsers(html: str, times: int = 1) -> tuple[set, set, list]:
    """Elements, attributes and comments as a browser reads them; `times` 2 reads again what the first time wrote.

    Every browser that runs scripts reads `noscript` as one that has them; mutations live in the second reading.
    """
    import html5lib

    elements, attributes, other = set(), set(), []
    for scripting in (True, False)[:times]:
        parser = html5lib.HTMLParser(namespaceHTMLElements=False)
        tree = parser.parseFragment(html, container="div", scripting=scripting)
        for node in tree.iter():
            if isinstance(node.tag, str) and node.tag != "DOCUMENT_FRAGMENT":
                elements.add(node.tag)
                attributes |= set(node.attrib.items())
            elif not isinstance(node.tag, str):
                other.append(node.text)
        html = html5lib.serialize(tree, omit_optional_tags=False, quote_attr_values="always")
    return elements, attributes, other


def check_attributes(attributes: set) -> None:
    """Only looks, and of those only what can neither fetch nor leave its place: nothing of this comes from data."""
    for name, value in attributes:
        if name == "title":  # what a token earned, on hover
            assert FIGURE.fullmatch(value)
            continue
        assert name == "style"
        for declaration in filter(None, value.split(";")):
            assert LOOK.fullmatch(declaration), declaration


@cache
def check_html(html: str, times: int = 1) -> None:
    """No element, attribute or comment that is not ours, for two readers; nothing that MathJax could pair."""
    html.encode("utf-8")
    page = Strict(html)
    assert page.elements <= ELEMENTS
    check_attributes(page.attributes)
    assert not page.other
    assert not [said for said in page.texts if len(said) > 1 and set("$\\`") & set(CONTROL.sub("", said))]
    assert not HIDDEN & set(html)
    if HTML5LIB and (times > 1 or len(html) < LONG):
        elements, attributes, other = browsers(html, times)
        assert elements <= ELEMENTS
        check_attributes(attributes)
        assert not other


def check_plain(text: str) -> None:
    """Text that is shown as text: whole, and without characters that act in a terminal or reorder a line."""
    text.encode("utf-8")
    assert not HIDDEN & set(text)


NAMES = {}  # names of controls by widget, as they are with harmless data


def check_box(name: str, words: str, shown: list, tokenizer) -> None:
    """A widget, before and after every control was moved, and its static form."""
    build = WIDGETS[name]
    if name not in NAMES:
        NAMES[name] = {text for kind, text in texts_of(build("harmless", tokenizer)) if kind == "name"}
        shown.clear()
    box = build(words, tokenizer)
    for _ in range(2):
        for kind, text in texts_of(box):
            if kind == "html":
                check_html(text)
            elif kind == "name":  # ours, whatever the rows say
                assert text in NAMES[name]
            else:
                check_plain(text)
                assert kind != "option" or len(text) <= 80
        move(box)
    for bundle in shown:
        check_html(bundle.get("text/html", ""))
        check_plain(bundle.get("text/plain", ""))
        said = "" if name.startswith(NAMING) else bundle.get("text/plain", "")
        assert not [active for active in ACTIVE if active in said]


def move(box) -> None:
    """Move what a reader can move: the second option, the other end, every button."""
    for part in parts(box):
        traits = part.trait_values()
        if "_options_labels" in traits and len(part.options) > 1:
            part.index = 1
        elif "min" in traits and isinstance(traits.get("value"), int):
            part.value = traits["max"]
        if "icon" in traits and "button_style" in traits:
            part.click()


pytestmark = pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
EVIL = pytest.mark.parametrize("words", NAMED.values(), ids=NAMED)


@EVIL
@pytest.mark.parametrize("name", VIEWS)
def test_a_row_brings_no_element_and_no_attribute(name, words, tokenizer):
    """A row of a public data set would run a script or draw a button in the reader's notebook."""
    check_html(VIEWS[name](words, tokenizer), 2)


@EVIL
@pytest.mark.parametrize("name", SHOWS)
def test_what_a_cell_shows_is_the_safe_view(name, words, tokenizer, shown):
    """A safe view helps only where it is used."""
    SHOWS[name](words, tokenizer)
    assert len(shown) == 1
    check_html(shown[0]["text/html"])


@EVIL
@pytest.mark.parametrize("name", WIDGETS)
def test_a_row_brings_nothing_into_a_widget(name, words, tokenizer, shown):
    """HTML values are obeyed, and in ipywidgets 7 descriptions too; the static form is obeyed where no kernel runs."""
    check_box(name, words, shown, tokenizer)
    assert shown


@EVIL
def test_options_are_one_short_line_of_plain_text(words):
    """A list of options would be reordered by a bidi mark, or grow wider than the page."""
    option = widgets.label(words)
    check_plain(option)
    assert "\n" not in option
    assert len(option) <= 70


def test_all_rows_at_once_are_as_safe_as_each(tokenizer, shown):
    """One payload may open what another closes."""
    browser, tokens = widgets.pair_browser(rows()), widgets.token_view(tokenizer, rows())
    options = [text for kind, text in texts_of(browser.box) if kind == "option"]
    assert len(options) > len(NAMED)
    for text in options:
        check_plain(text)
    for at in range(len(rows())):
        browser.controls["pair"].value, tokens.controls["row"].value = at + 1, at
        for part in (*browser.outputs.values(), *tokens.outputs.values()):
            assert Strict(part.value).elements <= ELEMENTS
    check_html("".join(views.text(words) for words in NAMED.values()), 2)
    check_html(widgets.table([{name: words} | pair(words) for name, words in NAMED.items()]).data)


@pytest.mark.parametrize(
    "html",
    [
        "<b onclick=x>y</b>", "<img src=x>", "<b class=from-data>x</b>", "<!-- x -->", "<b style='position:fixed'>",
        "$x$", "<b style='background:url(x)'>", "<b title=x>y</b>", "<b title='+1 x'>y</b>",
        "a\x1b[31m", "\u202e", "<span>\\(</span>x \\(", "<i\nid=from-data>", "<noscript><p title='</noscript>'>",
    ],
)  # fmt: skip
def test_the_check_itself_can_fail(html):
    """A check that lets everything through proves nothing."""
    with pytest.raises(AssertionError):
        check_html(html)


def test_every_payload_is_hostile_and_can_be_told():
    """A browser test looks for `window.__hit` and `from-data`; a payload without them could act unseen."""
    assert len(set(NAMED.values())) == len(NAMED) >= 50
    for words in NAMED.values():
        if "on" in words and "=" in words and "<" in words:
            assert "window.__hit" in words or "from-data" in words


def test_every_text_of_a_tree_is_seen():
    """A widget whose texts are not walked is not tested."""
    import ipywidgets

    inside = ipywidgets.HBox([ipywidgets.HTML("one"), ipywidgets.Textarea("two", placeholder="three")])
    choice = ipywidgets.Dropdown(options=["four"], description="five")
    tree = ipywidgets.VBox([ipywidgets.Accordion([inside]), choice, ipywidgets.Button(description="six")])
    seen = {(kind, text.split(": ")[-1]) for kind, text in texts_of(tree)}
    wanted = {
        ("html", "one"),
        ("value", "two"),
        ("name", "three"),
        ("option", "four"),
        ("name", "five"),
        ("name", "six"),
    }
    assert wanted <= seen
