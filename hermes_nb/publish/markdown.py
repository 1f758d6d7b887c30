"""Words of others inside a card: whatever they hold, they break no table, heading or HTML. Lesson: 04_merge."""

import re

LONGEST = 300


def plain(text) -> str:
    """`text` on one line, with the characters escaped that Markdown or HTML would act on; at most 300 characters."""
    # an underscore inside a word is one
    return re.sub(r"[\\`*\[\]<>|#~$&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _line(text))


def code(text, cell: bool = False) -> str:
    """`text` as code, on one line; `cell`: inside a table, where a bar would end the cell."""
    shown = _line(text).replace("`", "'") or " "
    return f"`{shown.replace('|', chr(92) + '|') if cell else shown}`"


def table(rows: list[dict]) -> str:
    """Rows with the same keys as a Markdown table; values are written as they are."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _line(text) -> str:
    """One line of printable characters."""
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(shown.split())[:LONGEST]
