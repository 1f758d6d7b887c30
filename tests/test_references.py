"""Run alone: python -m pytest tests/test_references.py"""

import re
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent / "notebooks" / "references.bib"
ENTRY = re.compile(r"@(\w+)\{([^,\s]+),\n(.*?)\n\}", re.DOTALL)
FIELD = re.compile(r"  (\w+) = \{(.*)\}")


def parse(text: str) -> list[tuple[str, str, dict]]:
    """(kind, key, fields) of each entry; a field a line, `  name = {value}`; raises ValueError on anything else."""
    left = re.sub(r"^%.*$", "", ENTRY.sub("", text), flags=re.MULTILINE).strip()
    if left:
        raise ValueError(f"outside of all entries: {left[:60]!r}")
    entries = []
    for kind, key, body in ENTRY.findall(text):
        *lines, last = body.split("\n")
        found = [FIELD.fullmatch(line) for line in [*(li.removesuffix(",") for li in lines), last]]
        if not all(line.endswith(",") for line in lines) or not all(found):
            raise ValueError(f"{key}: a line is not a field, or lacks its comma")
        names = [f[1] for f in found]
        if len(set(names)) < len(names) or any(f[2].count("{") != f[2].count("}") for f in found):
            raise ValueError(f"{key}: a field comes twice, or its braces do not match")
        entries.append((kind, key, {f[1]: f[2] for f in found}))
    return entries


ENTRIES = parse(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "bad",
    [
        "@misc{a,\n  title = {A}\n  year = {2020}\n}\n", "@misc{a,\n  title = {A},\n  title = {B}\n}\n",
        "@misc{a,\n  title = {{A}\n}\n", "@misc{a,\n  title = A\n}\n", "stray words\n", "@misc{a,\n  title = {A}\n",
    ],
)  # fmt: skip
def test_the_parser_refuses_what_bibtex_would_stumble_over(bad):
    """A lenient parser would pass a file that no LaTeX run accepts."""
    with pytest.raises(ValueError, match="field|outside"):
        parse(bad)


def test_keys_are_unique():
    """BibTeX drops the second of two entries with one key."""
    keys = [key for _, key, _ in ENTRIES]
    assert len(keys) > 40
    assert len({k.lower() for k in keys}) == len(keys)


@pytest.mark.parametrize(("kind", "key", "fields"), ENTRIES, ids=[e[1] for e in ENTRIES])
def test_every_entry_can_be_found_by_a_reader(kind, key, fields):
    """A reference without title, year and address is a rumour; arXiv ids are dddd.ddddd and agree with their year."""
    assert kind in ("misc", "article")
    assert fields.get("title")
    assert fields.get("author")
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert fields.get("url", "").startswith("https://")
    if "eprint" in fields:
        assert re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
        assert fields["archivePrefix"] == "arXiv"
        assert fields["url"] == f"https://arxiv.org/abs/{fields['eprint']}"
        assert fields["eprint"][:2] == fields["year"][2:]
        assert 1 <= int(fields["eprint"][2:4]) <= 12
    assert ("arxiv.org" in fields["url"]) == ("eprint" in fields)


def test_no_address_or_title_comes_twice():
    """The same paper under two keys is cited as two."""
    for field in ("url", "title"):
        values = [f[field].lower() for _, _, f in ENTRIES]
        assert len(set(values)) == len(values)


def test_the_papers_of_the_story_are_here():
    """The drawing of 00_tour names papers by number; each must be citable."""
    from hermes_nb import plots

    shown = "\n".join(t.get_text() for t in plots.story().axes[0].texts)
    named = set(re.findall(r"\d{4}\.\d{5}", shown))
    assert len(named) == 6
    assert named <= {f.get("eprint") for _, _, f in ENTRIES}
