"""Texts, pairs, tokens and audits as static HTML that is safe whatever a row says. Lesson: 01_preference_data.

A notebook obeys the HTML that it shows: a row of a public data set could run a script, draw a button or turn the page
around. So `text` lets no character of data act, data never stands in an attribute, and there are no scripts and
nothing to fetch. Colours are those of Okabe and Ito (2008), half transparent, so that they read on light and dark
pages; an element (ins, del, mark, b, i, kbd) says the same, because code hosts strip styles.
"""

import os
import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import groupby, islice

from hermes_nb import audit as audits
from hermes_nb import formats, templates
from hermes_nb.errors import DataProblem

SHOWN = 50  # dropped rows that an audit's view lists
BAR = 24  # characters of the longest bar
PRODUCT, WORDS = 1_000_000, 5_000  # up to here words are compared in order, which takes well under a second
HIDDEN = (  # shows nothing, moves or reorders its neighbours, or is no character: Unicode's default ignorables and more
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xD800, 0xDFFF), (0xFE00, 0xFE0E),
    (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
PLAIN = (  # for places that show text and no HTML
    {c: f"\u27e8U+{c:04X}\u27e9" for first, last in HIDDEN for c in range(first, last + 1)}
    | {c: chr(0x2400 + c) for c in range(0x20)}
    | {c: f"\\x{c:02x}" for c in range(0x80, 0xA0)}
    | {0x7F: "\u2421"}
)
SAFE = PLAIN | (
    {ord(c): f"<span>{c}</span>" for c in "$\\`"}  # in an element of its own, MathJax cannot pair it with another
    | {ord("\n"): "<br>"}
    | {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#x27;"}
)
ROLES = {  # role: element, colour, what the legend says
    "prompt": ("span", "#88888833", "prompt, no loss"),
    "trained": ("b", "#0072B244", "trained"),
    "stop": ("mark", "#009E7377", "stop token, trained"),
    "special": ("i", "#CC79A766", "control token, no loss"),
    "cut": ("del", "#D55E0055", "cut off"),
}
ONLY_CHOSEN, ONLY_REJECTED = "#0072B244", "#D55E0044;text-decoration:underline dashed"  # struck out reads badly
WHOLE = "text-align:left;vertical-align:top;white-space:pre-wrap"
CELL = f"{WHOLE};overflow-wrap:anywhere"
MONO = "font-family:monospace;line-height:1.8;white-space:pre-wrap;overflow-wrap:anywhere"


def text(value) -> str:
    """`str(value)` as HTML that shows every character and obeys none: only text, `<br>` and `<span>`; valid UTF-8.

    Newlines break the line; `$`, backslashes and backticks are kept from MathJax. What has no look of its own gets
    one: control characters (\u241b), bidi marks, zero-width characters and lone surrogates (\u27e8U+202E\u27e9). A word
    of a data set can read in one way and be tokenized in another; here both are seen. Raises nothing.
    """
    return str(value).translate(SAFE)


def _element(name: str, look: str, inside: str) -> str:
    """`inside`, which is HTML, in an element with a background; nothing around nothing."""
    return f"<{name} style='color:inherit;background:{look}'>{inside}</{name}>" if inside else ""


def _table(heads: tuple, rows: list, cell: str = WHOLE) -> str:
    """A table of values, each escaped; nothing where there are no rows. `cell` is the style of the values."""
    head = "".join(f"<th style='{WHOLE}'>{text(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td style='{cell}'>{text(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""


def _columns(heads: list[str], cells: list[str]) -> str:
    """Columns of the same width, in a table so that they stand side by side without styles too; all is HTML."""
    head = "".join(f"<th style='{CELL}'>{h}</th>" for h in heads)
    body = "".join(f"<td style='{CELL}'>{c}</td>" for c in cells)
    return f"<table style='width:100%;table-layout:fixed'><tr>{head}</tr><tr>{body}</tr></table>"


def _turns(row: dict, name: str) -> list[dict]:
    """The turns of one part of a pair. Raises DataProblem when they are not lists of role and content."""
    turns = row.get(name)
    if not isinstance(turns, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in turns
    ):
        raise DataProblem(f"{name} is not a list of turns with role and content; read the rows with formats.load.")
    return turns


def _one_sided(sides: list[list[str]]) -> tuple[list[list[bool]], str]:
    """For every word of two sides, whether only its side has it there, and how that was found; case does not count.

    Comparing in order looks at every two equal words, of which a long text has too many; such are compared as sets.
    """
    bare = [[w.strip().lower() for w in side] for side in sides]
    a, b = map(Counter, bare)
    if sum(n * b[w] for w, n in a.items()) > PRODUCT or max(map(len, bare)) > WORDS:
        marks = [[w not in other for w in side] for side, other in zip(bare, (b, a), strict=True)]
        return marks, "Too long to compare word by word: marked is what the other side does not have anywhere."
    marks = [[bool(w) for w in side] for side in bare]
    for block in SequenceMatcher(a=bare[0], b=bare[1], autojunk=False).get_matching_blocks():
        for side, at in ((0, block.a), (1, block.b)):
            marks[side][at : at + block.size] = [False] * block.size
    return marks, ""


def _answer(turns: list[dict], words: list[list[str]], marks: list[bool], element: str, look: str) -> str:
    """One side of a pair: its turns, with runs of marked words in `element`; roles where they are not expected."""
    out, marks = [], iter(marks)
    for turn, mine in zip(turns, words, strict=True):
        if len(turns) > 1 or turn["role"] != "assistant":
            out.append(f"<b>{text(turn['role'])}</b><br>")
        for marked, run in groupby(zip(islice(marks, len(mine)), mine, strict=True), key=lambda pair: pair[0]):
            shown = text("".join(word for _, word in run))
            out.append(_element(element, look, shown) if marked else shown)
        out.append("<br>")
    return "".join(out[:-1])


def pair(row: dict) -> str:
    """A pair: the prompt turn by turn, then chosen and rejected side by side, words of one side only marked.

    `row` has lists of turns (`role`, `content`) as `prompt`, `chosen` and `rejected`; raises DataProblem otherwise.
    DPO learns from what differs and from nothing else. Lesson: 01_preference_data.
    """
    asked, sides = _turns(row, "prompt"), [_turns(row, side) for side in ("chosen", "rejected")]
    words = [[re.findall(r"\S+\s*|\s+", m["content"]) for m in side] for side in sides]
    marks, note = _one_sided([[w for turn in side for w in turn] for side in words])
    heads, cells = [], []
    kinds = ("chosen", "ins", ONLY_CHOSEN), ("rejected", "del", ONLY_REJECTED)
    for (name, element, look), turns, mine, marked in zip(kinds, sides, words, marks, strict=True):
        count = sum(len(m["content"].split()) for m in turns)
        heads.append(f"{name}: {count} words, {sum(marked)} marked ({_element(element, look, 'only here')})")
        cells.append(_answer(turns, mine, marked, element, look))
    if sides[0] == sides[1]:
        note = "Both answers are identical."
    elif not note and not any(map(any, marks)):
        note = "The same words on both sides; only case, blanks or turns differ."
    question = "".join(f"<div style='{CELL}'><b>{text(m['role'])}</b><br>{text(m['content'])}</div>" for m in asked)
    return f"<div>{question}{_columns(heads, cells)}{note}</div>"


def _token(piece: str) -> str:
    """One token as a box: newlines as arrows that break the line, blanks alone as signs, an empty one as \u2205."""
    shown = text(piece.replace("\n", "\u21b5")) if piece.strip(" ") else "\u2423" * len(piece) or "\u2205"
    # `all:unset`: pages that draw kbd as a dark key would hide the role's colour
    return f"<kbd style='all:unset;border:1px solid #8888'>{shown}</kbd>" + "<br>" * ("\n" in piece)


def tokens(pieces: list[str], roles: list[str], max_length: int | None = None, title: str = "") -> str:
    """Every token in a box, with its role by colour and element, and a legend that counts the roles.

    `pieces` are the texts of the tokens, `roles` one of `prompt`, `trained`, `stop`, `special`, `cut` for each; those
    from place `max_length` on are shown as cut, as TRL does. Raises DataProblem when they do not fit together. An
    answer cut before its stop token never teaches the model to end. Lessons: 01_preference_data, 02, 03.
    """
    if len(pieces) != len(roles) or not set(roles) <= set(ROLES):
        raise DataProblem(f"{len(pieces)} tokens, {len(roles)} roles; each token needs one of {', '.join(ROLES)}.")
    limit = len(pieces) if max_length is None else max_length
    now = [role if at < limit else "cut" for at, role in enumerate(roles)]
    runs = groupby(zip(now, pieces, strict=True), key=lambda one: one[0])
    body = "".join(_element(*ROLES[role][:2], "".join(_token(piece) for _, piece in run)) for role, run in runs)
    count = Counter(now)
    said = [_element(*ROLES[r][:2], f"{ROLES[r][2]}: {count[r]}") for r in ROLES if count[r]]
    head = f"{len(pieces)} tokens" + (f", max_length {limit}" if max_length is not None else "")
    lost = roles.count("stop") - count["stop"]
    if lost:
        said.append(f"<b>{lost} STOP TOKEN{'S' * (lost > 1)} CUT OFF</b>")
    name = f"<b>{text(title)}</b><br>" if title else ""
    return f"<div>{name}{' | '.join([head, *said])}<div style='{MONO}'>{body}</div></div>"


def row_tokens(tokenizer, row: dict, side: str = "chosen") -> tuple[list[str], list[str]]:
    """Texts and roles of the tokens of a row, ready for `tokens`: a pair with its answer `side`, or `messages`.

    The ids and what is trained come from `templates`, as in training. Raises DataProblem for another side, for a row
    that is neither, and as `templates.pair_ids` does. Lessons: 01_preference_data, 02.
    """
    if side not in ("chosen", "rejected"):
        raise DataProblem(f"a pair has no answer {side!r}; side is chosen or rejected.")
    if "messages" in row:
        ids, trained = templates.conversation_ids(tokenizer, row["messages"])
    else:
        for name in ("prompt", "chosen", "rejected"):
            _turns(row, name)
        prompt, *answers = templates.pair_ids(tokenizer, row)
        answer = answers[side == "rejected"]
        ids, trained = prompt + answer, [0] * len(prompt) + [1] * len(answer)
    controls = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(tokenizer.all_special_ids)
    texts = {i: templates.piece(tokenizer, i) for i in set(ids)}
    unlearned = {i: "special" if i in controls else "prompt" for i in texts}
    learned = {i: "stop" if i == tokenizer.eos_token_id else "trained" for i in texts}
    return [texts[i] for i in ids], [(learned if t else unlearned)[i] for i, t in zip(ids, trained, strict=True)]


def audit(found) -> str:
    """An `audit.Audit`: rows in = kept + dropped, bars of the reasons, warnings, dropped rows, lengths, languages.

    At most 50 dropped rows are listed, the others counted. Read them: what a filter throws away says more about it
    than its name. Lesson: 01_preference_data.
    """
    report, said = found.report, found.report["languages"]
    bars = {"kept": report["kept"]} | report["reasons"]
    scale, meaning = max(1, *bars.values()), formats.UNUSABLE | audits.REASONS | {"kept": ""}
    reasons = [(name, n, "\u2588" * max(n > 0, BAR * n // scale), meaning[name]) for name, n in bars.items()]
    listed = [[d[k] for k in ("source", "row", "reason", "detail", "excerpt")] for d in islice(found.dropped, SHOWN)]
    more = len(found.dropped) - len(listed)
    quantiles = {name: q for name, q in report["lengths"].items() if q}
    parts = (
        f"<b>{report['rows']} rows in = {report['kept']} kept + {report['dropped']} dropped</b>, "
        f"at {report['max_length']} tokens",
        _table(("outcome", "rows", "", "meaning"), reasons),
        _table(("warning", "times", "meaning"), [(w, n, audits.WARNINGS[w]) for w, n in report["warnings"].items()]),
        _table(("source", "row", "reason", "detail", "excerpt"), listed, CELL),
        f"and {more} more dropped rows" if more else "",
        _table(("tokens of", *next(iter(quantiles.values()), ())), [(k, *q.values()) for k, q in quantiles.items()]),
        _table(("language", f"of the first {sum(said.values())} rows kept"), list(said.items())),
    )
    return "<div>" + "".join(parts) + "</div>"


def prompts(tokenizer, messages: list[dict]) -> str:
    """The same turns rendered without and with the generation prompt, side by side, the difference marked.

    Generation starts from the right one; from the left one the model would first have to open its own turn. Training
    and generation must agree on every character here. Lessons: 00_tour, 01_preference_data.
    """
    sides = [templates.render(tokenizer, messages, asked) for asked in (False, True)]
    same = len(os.path.commonprefix(sides))
    kinds = ("without the generation prompt", "del", ONLY_REJECTED), ("with it", "ins", ONLY_CHOSEN)
    heads, cells = [], []
    for (name, element, look), side in zip(kinds, sides, strict=True):
        shared, own = (text(part.replace("\n", "\u21b5\n")) for part in (side[:same], side[same:]))
        heads.append(f"{name}: {len(side)} characters, {len(side) - same} marked")
        cells.append(f"<div style='{MONO}'>{shared}{_element(element, look, own)}</div>")
    return f"<div>{_columns(heads, cells)}</div>"
