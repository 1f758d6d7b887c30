"""Row texts that try to act in the page that shows them, for the tests of everything that shows rows.

A payload that runs counts itself in `window.__hit`; an element that one makes is called `from-data`, by its class or
its id. So a browser test has two questions: is `window.__hit` undefined, and does `.from-data, #from-data` match
nothing? All are harmless: none leaves the page, and none changes anything but that number.
"""

RUN = "window.__hit=(window.__hit||0)+1"  # without blanks, so that it fits an attribute without quotes
ESC = "\x1b"

NAMED = {
    # scripts, spelled in ways that simple filters do not know
    "script": f"<script class=from-data>{RUN}</script>",
    "script in capitals": f"<SCRIPT CLASS=from-data>{RUN}</SCRIPT>",
    "script with a blank": f"<script class=from-data >{RUN}</script\t\n>",
    "script in a script": f"<scr<script>ipt class=from-data>{RUN}</scr</script>ipt>",
    "script after a slash": f"<script/class=from-data>{RUN}</script/>",
    "script without an end": f"<script class=from-data>{RUN}//",
    "script as a module": f"<script type=module class=from-data>{RUN}</script>",
    "script after NUL": f"<\0script class=from-data>{RUN}</\0script>",
    "script from data": f"<script class=from-data src='data:text/javascript,{RUN}'></script>",
    # elements with a handler
    "img": f'<img class=from-data src=x onerror="{RUN}">',
    "img without blanks": f"<img/class=from-data/src=x/onerror={RUN}>",
    "img without an end": f"<img class=from-data src=x onerror={RUN}//",
    "img with a newline": f"<img\nclass=from-data\nsrc=x\nonerror\n=\n{RUN}>",
    "img after two brackets": f"<<img class=from-data src=x onerror={RUN}>",
    "image": f"<image class=from-data href=x onerror={RUN}>",
    "svg": f"<svg class=from-data onload={RUN}></svg>",
    "svg with animation": f"<svg class=from-data><animate onbegin={RUN} attributeName=x dur=1s></svg>",
    "svg with a script": f"<svg class=from-data><script>{RUN.replace('_', '&#95;')}</script></svg>",
    "svg with foreign elements": f"<svg class=from-data><foreignObject><body onload={RUN}></foreignObject></svg>",
    "iframe": f'<iframe class=from-data srcdoc="<script>parent.{RUN}</script>"></iframe>',
    "iframe to a link": f"<iframe class=from-data src='javascript:parent.{RUN}'></iframe>",
    "object": f"<object class=from-data data='javascript:{RUN}' onerror={RUN}></object>",
    "embed": f"<embed class=from-data src='javascript:{RUN}'>",
    "details": f"<details class=from-data open ontoggle={RUN}><summary>more</summary>text</details>",
    "video": f"<video class=from-data><source onerror={RUN}></video>",
    "audio": f"<audio class=from-data src=x onerror={RUN}></audio>",
    "focus": f"<input class=from-data autofocus onfocus={RUN}>",
    "any element with focus": f"<x-row class=from-data tabindex=1 autofocus onfocus={RUN}>x</x-row>",
    "animation": (
        f"<style class=from-data>@keyframes turn{{}}</style><b class=from-data style='animation:turn 1s' "
        f"onanimationstart='{RUN}'>x</b>"
    ),
    "body": f"</body><body class=from-data onload={RUN} onpageshow={RUN}>",
    "marquee": f"<marquee class=from-data onstart={RUN}>x</marquee>",
    "template": f"<template class=from-data shadowrootmode=open><img src=x onerror={RUN}></template>",
    # links, styles, and what turns the whole page around
    "link with javascript": f"<a class=from-data href='javascript:{RUN}'>the source of this row</a>",
    "link with a hidden scheme": f"<a class=from-data href='java&Tab;script&colon;{RUN}'>the source</a>",
    "link with data": f"<a class=from-data href='data:text/html,<script>{RUN}</script>'>the source</a>",
    "style": "<style class=from-data>body{display:none!important}</style>",
    "style with an expression": f"<b class=from-data style='width:expression({RUN})'>x</b>",
    "style with an address": f"<td class=from-data style=\"background:url(javascript:'{RUN}')\">x</td>",
    "style over the page": "<div class=from-data style='position:fixed;inset:0;background:red;z-index:9999'>x</div>",
    "stylesheet": "<link class=from-data rel=stylesheet href='data:text/css,body{display:none}'>",
    "refresh": f'<meta class=from-data http-equiv=refresh content="0;url=javascript:{RUN}">',
    "policy": "<meta class=from-data http-equiv=content-security-policy content=\"script-src 'none'\">",
    "base": "<base class=from-data href='data:text/html,'>",
    "form": f"<form class=from-data action='javascript:{RUN}'><input name=token><button>Run</button></form>",
    "button": f"<button class=from-data onclick={RUN} style='position:fixed;inset:0'>Run all cells</button>",
    "names of globals": "<form id=from-data name=Jupyter><input name=kernel></form><a id=from-data name=MathJax>x</a>",
    # out of an attribute, out of an element
    "out of quotes": f"\"><img class=from-data src=x onerror={RUN}>",
    "out of apostrophes": f"'><img class=from-data src=x onerror={RUN}>",
    "out of both": f"'\">--></style></script><img class=from-data src=x onerror={RUN}>",
    "out of backticks": f"``onmouseover={RUN} class=from-data `",
    "a handler after quotes": f'" class=from-data autofocus tabindex=1 onfocus="{RUN}',
    "a handler after apostrophes": f"' class=from-data style='position:fixed;inset:0' onmouseover='{RUN}",
    "out of a table": f"</td></tr></tbody></table><img class=from-data src=x onerror={RUN}>",
    "out of a textarea": f"</textarea><img class=from-data src=x onerror={RUN}><textarea class=from-data>",
    "out of a title": f"</title><img class=from-data src=x onerror={RUN}>",
    "out of a token": f"</kbd></b></mark></del></div><img class=from-data src=x onerror={RUN}><kbd class=from-data>",
    "out of an option": f"</option></select><img class=from-data src=x onerror={RUN}>",
    "out of a script": f"</script><img class=from-data src=x onerror={RUN}>",
    "a row of our own": "</td><td class=from-data>kept</td></tr><tr><td class=from-data>chosen</td></tr>",
    # comments, sections, references
    "comment": f"<!--><img class=from-data src=x onerror={RUN}>-->",
    "comment without an end": "<!-- everything below is gone",
    "end of a comment": f"--!><img class=from-data src=x onerror={RUN}>",
    "section": f"<![CDATA[<img class=from-data src=x onerror={RUN}>]]>",
    "instruction": f"<?xml version='1.0'?><!DOCTYPE html [<!ENTITY e '{RUN}'>]><?php echo 1 ?>",
    "references": f"&lt;img class=from-data src=x onerror={RUN}&gt; &amp;lt;b&amp;gt;",
    "numbered references": f"&#60;img class=from-data src=x onerror={RUN}&#x3e;",
    "references without an end": f"&ltimg class=from-data src=x onerror={RUN}&gt &#60script&#62{RUN}",
    # harmless once, alive when written out and read again
    "mutation by noscript": f'<noscript><p title="</noscript><img class=from-data src=x onerror={RUN}>">',
    "mutation by math": (
        f"<math class=from-data><mtext><table><mglyph><style><!--</style><img title=\"--><img class=from-data src=x "
        f'onerror={RUN}>">'
    ),
    "mutation by svg": f'<svg class=from-data></p><style><g title="</style><img class=from-data src=x onerror={RUN}>">',
    "mutation by forms": (
        f"<form class=from-data><math><mtext></form><form class=from-data><mglyph><style></math><img class=from-data "
        f"src=x onerror={RUN}>"
    ),
    "mutation by select": f"<select class=from-data><iframe><select><img class=from-data src=x onerror={RUN}>",
    "mutation by plaintext": "<plaintext class=from-data>",
    "mutation by xmp": f'<xmp class=from-data><p title="</xmp><img class=from-data src=x onerror={RUN}>">',
    # template languages, formulas and markdown, which a page may read after the HTML
    "template language": f"{{{{constructor.constructor('{RUN}')()}}}} ${{{RUN}}} {{% raw %}} <%= 1 %> #{{1}}",
    "formula with a link": rf"$\href{{javascript:{RUN}}}{{x}}$",
    "formula with a class": r"$$\class{from-data}{\style{position:fixed;font-size:99em}{x}}$$",
    "formula with a character": r"\(\unicode{x41}\cssId{from-data}{y}\) \[\require{html}z\]",
    "formula as an environment": r"\begin{equation}\def\x{\x\x}\x\end{equation}",
    "formula across cells": r"costs $5 \\ and $6 \$ more",
    "link in markdown": f"[the source](javascript:{RUN}) ![x](x\"onerror=\"{RUN}) <javascript:{RUN}>",
    "code in markdown": f"```html\n<img class=from-data src=x onerror={RUN}>\n```\n# title\n---\n| a | b |\n`x`",
    # what a notebook itself obeys
    "magic": f"%%javascript\n{RUN}",
    "magic with HTML": f"%%html\n<img class=from-data src=x onerror={RUN}>",
    "view of a widget": '{"application/vnd.jupyter.widget-view+json": {"model_id": "from-data", "version_major": 2}}',
    "script of a widget": (
        '<script type="application/vnd.jupyter.widget-view+json" class=from-data>{"model_id": "0"}</script>'
    ),
    "output with a script": f'{{"output_type": "display_data", "data": {{"application/javascript": "{RUN}"}}}}',
    # characters that show nothing, or another thing than they are
    "ANSI colours": f"{ESC}[31mred{ESC}[0m {ESC}[2J{ESC}[H",
    "ANSI link": f"{ESC}]8;;javascript:{RUN}{ESC}\\the source{ESC}]8;;{ESC}\\",
    "ANSI in one byte": "\x9b31m red \x9d0;title\x07 \x08\x08\x08",
    "NUL": "a\0b\0",
    "carriage return": "kept: 60 rows\rkept: 0 rows \x0b\x0c\x85",
    "bidi override": "a \u202etxt.tpircs\u202c and \u2066isolated\u2069 \u200e\u200f\u061c",
    "lone surrogates": "a\ud800b\udfff <b class=from-data>x</b> \ud83d",
    "zero width": "ig\u200bno\u200dre\u2060 \ufeff this\u00ad, cho\u034fsen",
    "tags": "chosen\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065",
    "line separators": "a\u2028b\u2029c",
    "letters that look alike": f"\uff1cscript class=from-data\uff1e{RUN}\uff1c/script\uff1e \u2039b\u203a",
    "marks without end": "Z" + "\u0335\u0353\u0349" * 30,
    "overlong": "<b class=from-data>" + "A" * 500 + "\u202e$",
    "overlong with blanks": "<i class=from-data> $x$ " * 20,
}  # fmt: skip
PAYLOADS = tuple(NAMED.values())


def pair(text: str, row: int = 0) -> dict:
    """A pair with `text` wherever a row can hold one; its two answers differ in one word."""
    return {
        "prompt": [{"role": "user", "content": text}],
        "chosen": [{"role": "assistant", "content": f"{text} one"}],
        "rejected": [{"role": "assistant", "content": text}],
        "source": text, "kind": text, "row": row,
    }  # fmt: skip


def talk(text: str, row: int = 0) -> dict:
    """A conversation with `text` in both turns."""
    turns = [{"role": role, "content": text} for role in ("user", "assistant")]
    return {"messages": turns, "source": text, "kind": text, "row": row}


def rows() -> list[dict]:
    """One pair for every payload; as a list, because no table on disk holds a lone surrogate."""
    return [pair(text, row) for row, text in enumerate(PAYLOADS)]
