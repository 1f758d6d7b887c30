"""The token heat map. Run alone: python -m pytest tests/test_widgets_heat.py"""

import json
import re
from html.parser import HTMLParser

import pytest
from payloads import NAMED

from hermes_nb import history, widgets
from hermes_nb.errors import DataProblem

BETA = 0.5
STOP = "<|im_end|>"
DRAWN = "NUL", "lone surrogates", "formula across cells", "overlong", "line separators"
# logps of the tokens of chosen and of rejected at steps 0 and 4; with beta 0.5 the tokens of pair 0 earn
#   chosen: +1.0 -0.25 0.0 +0.5 = +1.25   rejected: -0.5 +0.1 = -0.4   so the margin is +1.65
TOKENS = {
    (0, 0): [[-3.0, -1.0, -2.0, -1.0], [-4.0, -0.3]], (4, 0): [[-1.0, -1.5, -2.0, 0.0], [-5.0, -0.1]],
    (0, 1): [[-3.0, -1.0], [-4.0, -3.0]], (4, 1): [[-4.0, -1.0], [-4.0, -3.0]],
}  # fmt: skip


class Marked(HTMLParser):
    """Elements, attributes by name, and the token boxes with a figure: (title, style, text)."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.attributes, self.tokens, self.open = set(), set(), [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "kbd" and "title" in dict(attrs):
            self.tokens.append([dict(attrs)["title"], dict(attrs)["style"], ""])
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag != "kbd"

    def handle_data(self, data):
        if self.open:
            self.tokens[-1][2] += data


def pair(number, pieces, text="Why rain?"):
    prompt = [{"role": "user", "content": text}]
    chosen, rejected = ([{"role": "assistant", "content": "".join(side).removesuffix(STOP)}] for side in pieces)
    return {"pair": number, "prompt": prompt, "chosen": chosen, "rejected": rejected, "pieces": pieces, "kind": ""}


PAIRS = [
    pair(0, [["Rain", " falls", ".\n", STOP], ["No", STOP]]),
    pair(1, [["Snow", STOP], ["It", " depends"]], "Why snow?"),  # rejected was cut off
]


def write(folder, pairs=PAIRS, tokens=TOKENS):
    file = folder / "history_run.jsonl"
    lines = [{"beta": BETA, "loss": ["sigmoid"]}, *pairs]
    for (step, number), sides in (TOKENS | dict(tokens)).items():
        line = {"step": step, "pair": number, "logps": [sum(side) for side in sides]}
        lines.append(line | ({"tokens": sides} if (step, number) in tokens else {}))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def panel(tmp_path, shown):
    return widgets.token_heat(write(tmp_path), 0)


def test_every_token_says_its_figure_on_hover(panel):
    """0.5 * (-1 + 3) = +1.0 for the first token; a colour alone cannot be read off."""
    tokens = Marked(panel.outputs["view"].value).tokens
    assert [(title, text) for title, _, text in tokens] == [
        ("+1.000", "Rain"), ("-0.250", " falls"), ("+0.000", ".\u21b5"), ("+0.500", STOP),
        ("-0.500", "No"), ("+0.100", STOP),
    ]  # fmt: skip


def test_the_tokens_of_a_side_sum_to_its_reward(tmp_path, panel):
    """Tokens that do not come to the reward explain something else: chosen +1.25, rejected -0.40, margin +1.65."""
    run = history.looks(write(tmp_path))
    row = run.table[(run.table.step == 4) & (run.table.pair == 0)].iloc[0]
    said = panel.outputs["view"].value
    titles = [float(title) for title, _, _ in Marked(said).tokens]
    assert sum(titles[:4]) == pytest.approx(row.reward_chosen, abs=1e-6)
    assert sum(titles[4:]) == pytest.approx(row.reward_rejected, abs=1e-6)
    assert f"chosen: reward {row.reward_chosen:+.2f}" in said
    assert f"rejected: reward {row.reward_rejected:+.2f}" in said
    assert "margin = +1.25 - (-0.40) = +1.65" in said


def colour(style):
    """Hue and opacity of a token's background."""
    return re.search(r"background:(#.{6})(..)$", style).groups()


def test_both_sides_have_one_symmetric_scale(panel):
    """-0.5 of rejected and +0.5 of chosen are as strong as each other, half as strong as +1.0."""
    first, falls, nothing, stop, no, _ = [colour(style) for _, style, _ in Marked(panel.outputs["view"].value).tokens]
    assert int(first[1], 16) == 2 * int(stop[1], 16) == 2 * int(no[1], 16) == 4 * int(falls[1], 16)
    assert nothing[1] == "00"
    assert first[0] == stop[0] != no[0] == falls[0]


def test_the_scale_slider_makes_small_figures_strong(panel):
    """One large token leaves all others pale; at a quarter of it, +0.5 and -0.5 have the full colour."""
    panel.controls["scale"].value = 0.25
    strong = [colour(style)[1] for _, style, _ in Marked(panel.outputs["view"].value).tokens]
    assert strong[0] == strong[1] == strong[3] == strong[4] > strong[5] > "00"
    assert "full colour at \u00b10.25" in panel.outputs["view"].value


def test_the_stop_token_is_framed_and_a_sentence_says_who_won(panel):
    """Models that do not stop lost it here: chosen +0.5 won, rejected +0.1 won; a cut answer has none."""
    view = panel.outputs["view"]
    assert "Stop token of chosen: +0.500 (won), of rejected: +0.100 (won)." in view.value
    framed = ["3px" in style for _, style, _ in Marked(view.value).tokens]
    assert framed == [False, False, False, True, False, True]
    panel.controls["pair"].value = 1
    assert "of chosen: +0.000 (as it was), of rejected: cut off, so never seen" in view.value
    assert [text for _, style, text in Marked(view.value).tokens if "3px" in style] == [STOP]


def test_a_lost_stop_token_is_said():
    """The one number that tells why answers run on."""
    said = widgets.heat_html((["a", STOP], ["b", STOP]), ([0.1, -0.2], [0.1, 0.3]))
    assert "of chosen: -0.200 (lost), of rejected: +0.300 (won)" in said


def test_an_answer_that_speaks_of_the_stop_token_still_has_one(tmp_path, shown):
    """A lesson on chat templates writes <|im_end|> as text; the token after it is the stop token all the same."""
    pairs = [PAIRS[0], pair(1, [["Write <|im_end|>", STOP], ["It", " depends"]])]
    view = widgets.token_heat(write(tmp_path, pairs), 1).outputs["view"].value
    assert [text for _, style, text in Marked(view).tokens if "3px" in style] == [STOP]


@pytest.mark.parametrize(("stops", "framed"), [([True, False], [STOP]), ([False, True], ["\ufffd"]), (None, [])])
def test_the_history_says_what_is_a_stop_token(tmp_path, shown, stops, framed):
    """Byte-level tokens decode to signs that do not join to the answer's text: a cut letter was framed as the end."""
    broken = pair(1, [["\ufffd", "\ufffd", STOP], ["It", "\ufffd"]]) | ({"stops": stops} if stops else {})
    broken["chosen"][0]["content"], broken["rejected"][0]["content"] = "\u6f22", "It\u6f22"
    tokens = TOKENS | {(step, 1): [[-3.0, -1.0, -1.0], [-4.0, -3.0]] for step in (0, 4)}
    view = widgets.token_heat(write(tmp_path, [PAIRS[0], broken], tokens), 1).outputs["view"].value
    assert [text for _, style, text in Marked(view).tokens if "3px" in style] == framed


def test_a_blank_at_the_end_of_a_cut_answer_is_no_stop_token(tmp_path, shown):
    """Answers are compared without the blanks around them: the blank itself looked like the end."""
    pairs = [PAIRS[0], pair(1, [["Snow", STOP], ["It", "\n"]])]
    view = widgets.token_heat(write(tmp_path, pairs), 1).outputs["view"].value
    assert "of rejected: cut off" in view


def test_the_step_slider_goes_back_to_the_reference(panel):
    """At step 0 policy and reference are the same: a token that earned something there is a bug."""
    before = panel.outputs["view"].value
    panel.controls["step"].value = 0
    assert panel.outputs["view"].value != before
    assert {title for title, _, _ in Marked(panel.outputs["view"].value).tokens} == {"+0.000"}
    assert "every token is 0" in panel.outputs["view"].value


def test_without_a_wish_the_worst_pair_is_shown(tmp_path, shown):
    """Pair 0 has margin +1.65, pair 1 has 0.5 * (-1) = -0.5: the failure teaches more."""
    panel = widgets.token_heat(history.looks(write(tmp_path)))
    assert (panel.controls["pair"].value, panel.controls["step"].value) == (1, 4)
    assert [text for text, _ in panel.controls["pair"].options] == ["pair 0: Why rain?", "pair 1: Why snow?"]


def test_without_a_kernel_there_is_a_picture(panel, shown):
    """Code hosts strip styles from HTML: only a picture keeps the colours."""
    assert set(shown[0]) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert 2_000 < len(shown[0]["image/png"]) < 80_000


def test_missing_tokens_are_said(tmp_path, shown):
    """At most steps only sums are kept; a callback's exception would be lost."""
    with pytest.raises(DataProblem, match="kept the tokens of no pair"):
        widgets.token_heat(write(tmp_path, tokens={}))
    with pytest.raises(DataProblem, match="not pair 7; it kept those of pairs \\[0, 1\\]"):
        widgets.token_heat(write(tmp_path), 7)
    panel = widgets.token_heat(write(tmp_path, tokens={at: TOKENS[at] for at in TOKENS if at != (4, 1)}), 0)
    panel.controls["pair"].value = 1
    assert "no tokens were kept; there are steps [0]" in panel.outputs["view"].value
    with pytest.raises(DataProblem, match="2 tokens, 1 numbers"):
        widgets.heat_html((["a", "b"], []), ([0.0], []))


def test_numbers_that_are_none_do_not_break_the_page():
    """A run that blew up has them."""
    values = [float("nan"), float("-inf"), 0.5]
    said = widgets.heat_html((["a", "b", "c"], []), (values, []), (False, False))
    seen = [(title, colour(style)[1]) for title, style, _ in Marked(said).tokens]
    assert seen == [("no number", "00"), ("-inf", "00"), ("+0.500", "b0")]
    assert "chosen: reward no number" in said
    assert "margin = no number - (+0.00) = no number" in said


def test_a_number_that_is_none_is_neither_won_nor_ranked():
    """`sorted` with NaN leaves any order; `+nan (lost)` and "the policy is the reference" are false."""
    nan = float("nan")
    said = widgets.heat_html((list("abcde"), [STOP]), ([0.1, nan, -0.3, nan, 0.2], [nan]), (False, True))
    assert "of rejected: no number." in said
    assert "most up: e +0.200, a +0.100<br>most down: c -0.300" in said
    assert "nan" not in said
    for values in ([nan], [nan, 0.0]):
        said = widgets.heat_html((["a"] * len(values), []), (values, []), (False, False))
        assert "without a number" in said
        assert "the reference" not in said


def test_every_figure_can_be_reached_without_a_mouse():
    """A keyboard has no hover: Tab reaches the summary, and the list behind it has every token once."""
    said = widgets.heat_html((["<b>", " falls", STOP], ["No"]), ([0.1234, -0.25, float("nan")], [0.0]), (True, False))
    chosen, rejected = re.findall(r"<details><summary>figures</summary>(.*?)</details>", said)
    assert "&lt;b&gt; +0.123<br> falls -0.250<br>&lt;|im_end|&gt; no number" in chosen
    assert "No +0.000" in rejected


def test_a_run_that_looked_once_has_a_slider_all_the_same(tmp_path, shown):
    """A slider of one option has no two ends; a run that has just begun has step 0 alone."""
    panel = widgets.token_heat(write(tmp_path, tokens={at: TOKENS[at] for at in TOKENS if at[0] == 0}), 0)
    assert len(panel.controls["step"].options) == 2
    assert panel.controls["step"].value == 0
    assert "every token is 0" in panel.outputs["view"].value


def test_a_half_written_last_look_begins_at_the_one_before(tmp_path, shown):
    """While a run writes, the last step has the tokens of some pairs only: the others raised."""
    run = write(tmp_path, tokens={at: TOKENS[at] for at in TOKENS if at != (4, 1)})
    assert widgets.token_heat(run, 1).controls["step"].value == 0
    assert widgets.token_heat(run, 0).controls["step"].value == 4
    with pytest.raises(DataProblem, match="not pair 1"):  # nothing to compare with
        widgets.token_heat(write(tmp_path, tokens={at: TOKENS[at] for at in TOKENS if at != (0, 1)}), 1)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NAMED)
def test_tokens_of_data_never_act(tmp_path, shown, monkeypatch, name):
    """A token that closes its box, or stands in an attribute, would run as code in the reader's notebook."""
    if name not in DRAWN:
        monkeypatch.setattr(widgets.heat, "png", lambda fig: b"")  # takes most of the time
    evil = NAMED[name]
    pairs = [pair(0, [[evil, evil, evil, STOP], [evil, STOP]], evil), PAIRS[1]]
    panel = widgets.token_heat(write(tmp_path, pairs), 0)
    found = Marked(panel.outputs["view"].value)
    assert found.elements <= {"div", "b", "br", "span", "table", "tr", "th", "td", "kbd", "details", "summary"}
    assert panel.outputs["view"].value.count("<details>") == 2
    assert found.attributes <= {"style", "title"}
    assert all(re.fullmatch(r"[+-]\d+\.\d{3}", title) for title, _, _ in found.tokens)
    assert len(found.tokens) == 6
    assert {c.description for c in panel.controls.values()} == {"pair", "previous", "next", "step", "full colour"}
    assert all(text.isprintable() and len(text) <= 70 for text, _ in panel.controls["pair"].options)


def test_the_next_pair_can_be_reached_by_a_button(shown, tmp_path):
    """JupyterLab takes the arrow keys of a focused list for itself; at an end of the list a button stays there."""
    panel = widgets.token_heat(write(tmp_path), 0)
    first = panel.outputs["view"].value
    panel.controls["next"].click()
    assert panel.controls["pair"].value == 1
    assert panel.outputs["view"].value != first
    panel.controls["next"].click()
    assert panel.controls["pair"].value == 1
    for _ in range(2):
        panel.controls["previous"].click()
    assert panel.outputs["view"].value == first
