"""Run alone: python -m pytest tests/test_views.py"""

import copy
import time
import unicodedata
from html.parser import HTMLParser

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_nb import audit, templates, views
from hermes_nb.errors import DataProblem

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "link": "<a href='javascript:alert(1)'>javascript:alert(1)</a>",
    "end of table": "</td></table></div><h1>big</h1>",
    "end of textarea": "</textarea></title></style><!-- ",
    "svg": '<svg/onload="alert(1)"><foreignObject>',
    "quotes": "' onmouseover='alert(1)\" style=\"position:fixed",
    "references": "&lt;b&gt; &amp &#36;x&#36; &nbsp;",
    "declarations": "<?php ?> <![CDATA[ x ]]> <!DOCTYPE html>",
    "dollars": "$x$ and $$y$$",
    "parentheses": r"\(x\) \[y\] \begin{equation}z\end{equation}",
    "backticks": "`code` ```js",
    "ansi": "\x1b[31mred\x1b[0m \x9b1m \x7f\a\b\r\n\t",
    "bidi": "a\u202eb\u202c \u2066c\u2069 \u200e\u200f\u061c",
    "zero width": "ig\u200bno\u200dre\u2060 \ufeff\u00ad \U000e0041",
    "variation selectors": "a\ufe00b\ufe01\ufe0e \u2764\ufe0f",
    "nul": "a\0b",
    "surrogate": "a\ud800b\udfff \ud83d\ude00",
    "separators": "a\u2028b\u2029c\x85d\x0b\x0c",
}
MEGABYTE = ("<b>\u202e$" + " a b" * 12) * 20_000
MINE = {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "br", "span", "ins", "del", "mark", "i", "kbd"}
BARE = {"\u00ad", "\u061c", "\ufeff", *map(chr, (*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070),
                                                  *range(0xFE00, 0xFE0F)))}  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a view: elements, attributes, text (`br` as newline), and text by element."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.attributes, self.odd, self.said, self.open, self.shown = set(), set(), [], [], [], []
        html.encode("utf-8")
        self.feed(html)
        self.close()
        assert not self.open
        self.text = "".join(self.shown)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= set(attrs)
        if tag == "br":
            self.shown.append("\n")
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown.append(data)
        self.said.append((tuple(self.open), data))

    def handle_comment(self, data):
        self.odd.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    def inside(self, *elements: str) -> list[str]:
        """Texts that stand in all of `elements`."""
        return [data for opened, data in self.said if set(elements) <= set(opened)]


def visible(words: str) -> str:
    """What a reader must see of `words`; written from the promise, not from the code."""

    def sign(c):
        if c == "\n":
            return c
        if unicodedata.category(c) == "Cc":
            return chr(0x2400 + ord(c)) if c < " " else "\u2421" if c == "\x7f" else f"\\x{ord(c):02x}"
        hidden = c in BARE or unicodedata.category(c) == "Cs" or 0xE0000 <= ord(c) < 0xE1000
        return f"\u27e8U+{ord(c):04X}\u27e9" if hidden else c

    return "".join(map(sign, words))


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


def talk(*said):
    return [{"role": role, "content": words} for role, words in said]


def pair(prompt="what is rain", chosen="short answer", rejected="one line"):
    return {
        "prompt": talk(("user", prompt)), "chosen": talk(("assistant", chosen)),
        "rejected": talk(("assistant", rejected)),
    }  # fmt: skip


def outcome(dropped, words="en"):
    """An audit whose dropped rows, sources and languages come from a list."""
    rows = [{"source": words, "row": i, "reason": "roles", "detail": words, "excerpt": words} for i in range(dropped)]
    report = {
        "rows": 3 + dropped, "kept": 3, "dropped": dropped, "max_length": 64, "reasons": {"roles": dropped},
        "warnings": {"near duplicate": 2}, "lengths": {"row": {"min": 4, "p50": 5, "max": 9}}, "languages": {words: 3},
    }  # fmt: skip
    return audit.Audit([], rows, report)


def drawn(view: str, words: str, tokenizer) -> str:
    """One view with `words` wherever data can stand."""
    turns = talk((words, words))
    plain = talk(("user", words), ("assistant", words), ("user", words))
    row = {"prompt": turns + plain, "chosen": turns + talk(("assistant", f"{words} one")), "rejected": turns}
    draw = {
        "text": lambda: views.text(words),
        "pair": lambda: views.pair(row),
        "tokens": lambda: views.tokens([words] * 5, list(views.ROLES), 4, words),
        "audit": lambda: views.audit(outcome(2, words)),
        "prompts": lambda: views.prompts(tokenizer, plain + turns),
    }
    return draw[view]()


@pytest.mark.parametrize("view", ["text", "pair", "tokens", "audit", "prompts"])
@pytest.mark.parametrize("words", [*HOSTILE.values(), "\n".join(HOSTILE.values())], ids=[*HOSTILE, "all"])
def test_data_shows_and_never_acts(view, words, tokenizer):
    """A row of a public data set would run as code in the reader's notebook, or hide what the model learns from."""
    page, harmless = (Page(drawn(view, w, tokenizer)) for w in (words, "harmless"))
    assert page.elements <= ({"br", "span"} if view == "text" else MINE)
    assert not page.odd
    assert {name for name, _ in page.attributes} <= {"style"}
    assert page.attributes <= harmless.attributes  # so none comes from data
    shown = visible(words)
    if view in ("tokens", "prompts"):  # these show newlines as well
        shown = shown.replace("\n", "\u21b5" if view == "tokens" else "\u21b5\n")
    assert shown in page.text
    assert not [c for c in page.text if c != "\n" and (c in BARE or unicodedata.category(c) in ("Cc", "Cs"))]


@pytest.mark.parametrize("view", ["text", "pair", "tokens", "audit", "prompts"])
def test_a_megabyte_is_shown_whole_and_soon(view, tokenizer):
    """A scraped row can be that long; comparing its words one by one would take hours."""
    begun = time.perf_counter()
    html = drawn(view, MEGABYTE, tokenizer)
    assert time.perf_counter() - begun < 5
    page = Page(html)
    assert page.elements <= MINE
    assert page.text.count("<b>") >= 20_000


@given(st.text(st.characters(exclude_categories=())) | st.lists(st.sampled_from([*HOSTILE.values()])).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_as_text(words):
    """Only text, br and span, whatever comes in; every character is there, or its sign."""
    page = Page(views.text(words))
    assert page.elements <= {"br", "span"}
    assert not page.odd
    assert not page.attributes
    drawn = visible(words)
    for first, last in views.HIDDEN:  # Unicode's other characters without a look
        drawn = "".join(f"\u27e8U+{ord(c):04X}\u27e9" if first <= ord(c) <= last else c for c in drawn)
    assert page.text == drawn


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=9), min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_pair_keeps_all_its_words(texts):
    """Marking must not lose, double or reorder a word."""
    page = Page(views.pair(pair(texts[0], " ".join(texts[1:]), "\n".join(texts))))
    cells = page.text.split("(only here)")[2]
    want = views.text(" ".join(texts[1:])) + views.text("\n".join(texts))
    assert cells.startswith(Page(want).text)
    assert page.elements <= MINE


def test_variation_selectors_are_seen_but_that_of_emoji():
    """A run of them shows nothing and can carry a whole hidden text; FE0F stands after every other emoji, and it would
    tear them apart."""
    for c in range(0xFE00, 0xFE0F):
        assert views.text(f"a{chr(c)}b") == f"a\u27e8U+{c:04X}\u27e9b"
    assert views.text("\u2764\ufe0f \U0001f3f3\ufe0f") == "\u2764\ufe0f \U0001f3f3\ufe0f"


def test_mathjax_finds_nothing_to_pair():
    """`$5 and $6` would become a formula: each sign is alone in an element, and MathJax looks at one at a time."""
    words = HOSTILE["dollars"] + HOSTILE["parentheses"] + HOSTILE["backticks"]
    signs = [(opened, data) for opened, data in Page(views.text(words)).said if set(data) & set("$\\`")]
    assert signs == [(("span",), c) for c in words if c in "$\\`"]


def test_values_that_are_no_text_are_written_out():
    """A table shows numbers and None too."""
    assert [views.text(v) for v in (None, 5, ["<"])] == ["None", "5", "[&#x27;&lt;&#x27;]"]


def test_a_pair_marks_what_one_side_has():
    """Marked throughout, or nowhere, a pair would show nothing of what DPO learns; case does not count."""
    page = Page(views.pair(pair("why", "Rain is wet.\nWhy: water", "rain is dry today.\nWhy: water")))
    assert "".join(page.inside("td", "ins")) == "wet."
    assert "".join(page.inside("td", "del")).strip() == "dry today."
    heads = "".join(page.inside("th"))
    assert "chosen: 5 words, 1 marked" in heads
    assert "rejected: 6 words, 2 marked" in heads


def test_every_turn_of_a_prompt_has_its_role():
    """Without roles, a system turn reads as the user's words."""
    row = pair() | {"prompt": talk(("system", "be brief"), ("user", "why"), ("assistant", "so"), ("user", "and"))}
    page = Page(views.pair(row))
    assert page.inside("b") == ["system", "user", "assistant", "user"]
    assert page.text.startswith("system\nbe briefuser\nwhyassistant\nsouser\nand")


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        ("same words", "same words", "Both answers are identical."),
        ("Same  words", "same words", "only case, blanks or turns differ"),
        ("a " * 1100, "a " * 1100 + "b", "Too long to compare word by word"),  # 1.21 million equal pairs
        (" ".join(map(str, range(6000))), " ".join(map(str, range(5999))) + " b", "Too long to compare word by word"),
        ("b c " * 3000, "c b " * 3000, "Too long to compare word by word"),  # no word is on one side only
        ("a b", "a c", ""),
    ],
)
def test_an_unmarked_pair_says_why(chosen, rejected, said):
    """No mark at all would read as a defect of the view; a coarser comparison must be named."""
    page = Page(views.pair(pair("q", chosen, rejected)))
    assert said in page.text
    notes = ("identical", "blanks", "Too long")
    assert sum(note in page.text for note in notes) == bool(said)
    assert bool(page.inside("td", "del")) == rejected.endswith(("b", "c"))


@pytest.mark.parametrize("row", [{}, pair() | {"chosen": "plain text"}, pair() | {"prompt": [{"role": "user"}]}])
def test_a_row_that_is_no_pair_is_refused(row, tokenizer):
    """A KeyError would not say that the row was never converted."""
    for draw in (views.pair, lambda r: views.row_tokens(tokenizer, r)):
        with pytest.raises(DataProblem, match="formats.load"):
            draw(row)


@pytest.mark.parametrize("role", views.ROLES)
def test_a_role_is_seen_without_colours(role):
    """Code hosts strip styles: two roles with one element would look the same there."""
    page = Page(views.tokens(["tok"], [role]))
    assert page.inside("kbd") == ["tok"]
    element = views.ROLES[role][0]
    assert "tok" in page.inside(element, "kbd")
    assert f"{views.ROLES[role][2]}: 1" in page.inside(element)
    assert [r for r in views.ROLES if views.ROLES[r][0] == element] == [role]
    assert len({views.ROLES[r][1] for r in views.ROLES}) == len(views.ROLES)


@pytest.mark.parametrize(("limit", "trained", "cut"), [(None, 2, 0), (6, 2, 0), (5, 2, 1), (4, 2, 2), (3, 1, 3)])
def test_tokens_are_cut_at_the_very_token(limit, trained, cut):
    """Off by one, the view would show a stop token that the trainer does not see. Six tokens, the last two stop."""
    roles = ["special", "prompt", "trained", "trained", "stop", "stop"]
    page = Page(views.tokens(list("abcdef"), roles, limit))
    assert "".join(page.inside("kbd")) == "abcdef"
    assert "".join(page.inside("del", "kbd")) == "abcdef"[6 - cut :]
    assert "".join(page.inside("b", "kbd")) == "abcdef"[2 : 2 + trained]
    assert (f"cut off: {cut}" in page.text) == bool(cut)
    assert ("STOP TOKEN CUT OFF" in page.text) == (cut == 1)
    assert ("2 STOP TOKENS CUT OFF" in page.text) == (cut > 1)
    assert page.text.startswith("6 tokens" + (f", max_length {limit}" if limit else ""))


def test_newlines_blanks_and_nothing_are_seen():
    """A trained newline is the defect that this course began with; it must not be invisible."""
    page = Page(views.tokens(["a", "\n", "  ", "", " b\n\n"], ["prompt"] * 5, title="t<"))
    assert page.inside("kbd") == ["a", "\u21b5", "\u2423\u2423", "\u2205", " b\u21b5\u21b5"]
    assert page.text.startswith("t<\n5 tokens")
    assert page.text.endswith("a\u21b5\n\u2423\u2423\u2205 b\u21b5\u21b5\n")


@pytest.mark.parametrize(("pieces", "roles"), [(["a"], []), (["a"], ["answer"])])
def test_tokens_and_roles_must_fit(pieces, roles):
    """A role too few would shift all others by one."""
    with pytest.raises(DataProblem, match="each token needs one of prompt, trained"):
        views.tokens(pieces, roles)


@pytest.mark.parametrize("runs", [1, 500], ids=["every token another role", "long runs"])
def test_a_long_row_is_small_and_soon_there(runs):
    """A notebook of one such view must still open."""
    roles = [list(views.ROLES)[(i // runs) % 4] for i in range(5000)]
    begun = time.perf_counter()
    html = views.tokens([" word<", "\n", "$", "\x1b", " longer\u202e"] * 1000, roles, 4500)
    assert time.perf_counter() - begun < 1
    assert len(html.encode()) < 1_000_000


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_tokens_of_a_pair_are_the_trainers(side, tokenizer):
    """A view with rules of its own would show what nobody trains. The answer and its stop token are trained."""
    row = pair()
    pieces, roles = views.row_tokens(tokenizer, row, side)
    assert "".join(pieces) == templates.render(tokenizer, row["prompt"] + row[side])
    learned = "".join(p for p, r in zip(pieces, roles, strict=True) if r == "trained")
    assert learned == row[side][0]["content"]
    assert [p for p, r in zip(pieces, roles, strict=True) if r == "stop"] == ["<|im_end|>"]
    controls = [p for p, r in zip(pieces, roles, strict=True) if r == "special"]
    assert controls == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert views.tokens(pieces, roles)


def test_tokens_of_a_conversation_are_the_trainers(tokenizer):
    """SFT trains every answer with its stop token, and no other turn."""
    messages = talk(("system", "S"), ("user", "U1"), ("assistant", "A1"), ("user", "U2"), ("assistant", "A2"))
    pieces, roles = views.row_tokens(tokenizer, {"messages": messages})
    assert "".join(pieces) == templates.render(tokenizer, messages)
    assert "".join(p for p, r in zip(pieces, roles, strict=True) if r == "trained") == "A1A2"
    assert roles.count("stop") == 2
    assert roles.count("special") == 5 + 3


def test_an_unknown_side_is_refused(tokenizer):
    """`choosen` must not show the other answer."""
    with pytest.raises(DataProblem, match="chosen or rejected"):
        views.row_tokens(tokenizer, pair(), "choosen")


def test_a_long_row_of_a_tokenizer_is_soon_there(tokenizer):
    """A cell that shows one row must not make the reader wait."""
    row = pair(chosen="the model answers " * 1700)
    begun = time.perf_counter()
    pieces, roles = views.row_tokens(tokenizer, row)
    html = views.tokens(pieces, roles, 1024)
    assert time.perf_counter() - begun < 1
    assert len(pieces) > 5000
    assert len(html) < 150 * len(pieces)


def test_blanks_that_sentencepiece_drops_are_put_back():
    """Mistral's tokenizer decodes one token without its first blank; words would run together."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"\u2581rain": 0, "\u2581is": 1, "<unk>": 2}, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    assert tokenizer.decode([1]) == "is"
    assert [templates.piece(tokenizer, i) for i in (0, 1, 2)] == [" rain", " is", "<unk>"]


def test_an_audit_is_seen_whole(tokenizer):
    """In = kept + dropped, each reason with its meaning, and every dropped row by number."""
    faults = [pair(prompt="  "), pair(rejected=""), pair(chosen="same", rejected="same "), pair(chosen="")]
    good = [pair(chosen=f"answer {i}") for i in range(8)]
    rows = datasets.Dataset.from_list([r | {"source": "here", "row": i} for i, r in enumerate([*good, *faults])])
    found = audit.pairs(rows, tokenizer, 64)
    page = Page(views.audit(found))
    assert page.text.startswith("12 rows in = 8 kept + 4 dropped, at 64 tokens")
    cells = page.inside("td")
    assert cells[:3] == ["kept", "8", "\u2588" * views.BAR]
    at = cells.index("empty answer")
    assert cells[at : at + 4] == ["empty answer", "2", "\u2588" * (views.BAR // 4), audit.REASONS["empty answer"]]
    at = cells.index("9")
    assert cells[at - 1 : at + 2] == ["here", "9", "empty answer"]
    assert audit.WARNINGS["near duplicate"] in cells
    for name, quantiles in found.report["lengths"].items():
        last = len(cells) - cells[::-1].index(name)
        assert cells[last : last + 6] == [str(n) for n in quantiles.values()]
    assert "of the first 8 rows kept" in page.text
    assert {*found.report["languages"]} <= {*cells}


@pytest.mark.parametrize(("dropped", "listed", "said"), [(50, 50, ""), (60, 50, "and 10 more dropped rows")])
def test_long_lists_are_counted(dropped, listed, said):
    """Ten thousand dropped rows would bury the page; silence on the rest would hide them."""
    page = Page(views.audit(outcome(dropped)))
    assert page.inside("td").count("roles") == 1 + listed
    assert ("more dropped rows" in page.text) == bool(said)
    assert said in page.text


def test_an_audit_that_kept_or_dropped_nothing_is_seen():
    """Empty tables, or a division by nothing, where there is nothing to show."""
    empty = {
        "rows": 0, "kept": 0, "dropped": 0, "max_length": 9, "reasons": {}, "warnings": {}, "lengths": {},
        "languages": {},
    }  # fmt: skip
    page = Page(views.audit(audit.Audit([], [], empty)))
    assert "0 rows in = 0 kept + 0 dropped" in page.text
    assert page.inside("td") == ["kept", "0"]


def test_the_generation_prompt_is_marked(tokenizer):
    """It is what generation starts from and training must too; unmarked, nobody sees a missing newline.

    12 of <|im_start|>, 4 of user, a newline, 3 of why, 10 of <|im_end|>: 30; then a newline, 12, 9, a newline: 23.
    """
    page = Page(views.prompts(tokenizer, talk(("user", "why"))))
    assert "".join(page.inside("ins")) == "\u21b5<|im_start|>assistant\u21b5"
    assert page.inside("del") == []
    heads = "".join(page.inside("th"))
    assert "without the generation prompt: 30 characters, 0 marked" in heads
    assert "with it: 53 characters, 23 marked" in heads
