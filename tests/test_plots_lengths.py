"""Run alone: python -m pytest tests/test_plots_lengths.py"""

import warnings

import pytest

from hermes_nb import audit, plots, templates, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.plots.lengths import LABEL, lengths, word_rule

HOSTILE = ["$x_{$", "_hidden", "\u4f60\u597d", "\ud800", "a\nb\x1b\0", "\u202eabc", "w" * 1_000_000, "\U0001f600", ""]


def report(words, by_words=0.83, by_length=0.61):
    return {
        "word_rule": {
            "n": 40,
            "accuracy": by_words,
            "words": [{"word": w, "chosen_only": i, "rejected_only": 20 - i} for i, w in enumerate(words)],
        },
        "length_rule": {"n": 40, "accuracy": by_length},
    }


def said(fig):
    return [t.get_text() for t in fig.axes[0].get_legend().get_texts()]


def heights(fig):
    """Bars of each source, in order: twice two corners a bin."""
    return [patch.get_xy() for patch in fig.axes[0].patches if patch.get_label().endswith(("a", "b"))]


def test_the_share_beyond_the_line_is_written():
    """A row of exactly the limit is whole: 2 of 5 and 0 of 2 are beyond 512."""
    fig = lengths({"a": [10, 511, 512, 513, 4000], "b": [1, 512]}, 512)
    assert said(fig)[:2] == ["40.0% beyond (2 of 5 rows): a", "0.0% beyond (0 of 2 rows): b"]
    (line,) = fig.axes[0].lines
    assert list(line.get_xdata()) == [512.5, 512.5]
    assert "512" in line.get_label()


@pytest.mark.parametrize("limit", [1, 7, 512, 1000, 100_000])
@pytest.mark.parametrize("longest", [1, 7, 513, 90_000])
def test_no_bar_stands_on_both_sides_of_the_line(limit, longest):
    """A whole row drawn beyond the line contradicts the share that is written; every row is in the picture."""
    rows = [1, limit, limit, limit + 1, longest]
    fig = lengths({"a": rows}, limit)
    (outline,) = heights(fig)
    left, total = 0.0, 0.0
    for (_x, y), (right, _) in zip(outline[1:-1:2], outline[2::2], strict=False):
        total += y
        left += y * (right <= limit + 0.5 + 1e-6)
    assert total == pytest.approx(1)
    assert left == pytest.approx(sum(n <= limit for n in rows) / 5)
    assert len(outline) < 2 * 100


def test_one_long_row_does_not_squeeze_the_others():
    """The axis ends at four limits, and says where the last bin begins."""
    ax = lengths({"a": [100, 200, 1_000_000]}, 100).axes[0]
    assert max(x for patch in heights(ax.figure) for x, _ in patch) < 450
    assert "the last bin: all from" in ax.get_xlabel()
    assert "last bin" not in lengths({"a": [100, 399]}, 100).axes[0].get_xlabel()


def test_many_sources_differ_in_more_than_colour():
    """Six sources, four colours: the lines differ."""
    fig = lengths({str(i) + "a": [i + 1] for i in range(6)}, 9)
    looks = {(p.get_edgecolor(), str(p.get_linestyle())) for p in fig.axes[0].patches[1:]}
    assert len(looks) == 6
    assert len({style for _, style in looks}) >= 4


@pytest.mark.parametrize("values", [{}, {"a": []}, {"a": [], "b": [3]}])
def test_an_empty_source_is_drawn(values):
    """A filter can leave nothing of a source; the picture must say so and not divide by it."""
    assert widgets.png(lengths(values, 5)).startswith(b"\x89PNG")


def test_bars_are_the_counts_of_the_report():
    """A bar that is not the count is decoration; the title has both rules."""
    fig = word_rule(report(["first: great", "card"]))
    ax = fig.axes[0]
    assert [[bar.get_width() for bar in group] for group in ax.containers] == [[0, 1], [20, 19]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first: great", "card"]
    assert "by words 83%, by length 61%" in ax.get_title()
    assert said(fig) == ["in chosen only", "in rejected only"]
    assert ax.containers[0][0].get_hatch() != ax.containers[1][0].get_hatch()


def test_words_without_a_glyph_and_names_with_signs_are_drawn_without_a_warning():
    """A box for a missing glyph says nothing, a dollar sign is no formula, and a long word must not fill the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = word_rule(report(HOSTILE))
        rows = lengths({name: [1, 9] for name in HOSTILE}, 5)
        assert widgets.png(names).startswith(b"\x89PNG")
        assert widgets.png(rows).startswith(b"\x89PNG")
        assert widgets.png(word_rule(report([]))).startswith(b"\x89PNG")
    labels = [t.get_text() for t in names.axes[0].get_yticklabels()]
    assert labels[:6] == ["$x_{$", "_hidden", r"\u4f60\u597d", r"\ud800", r"a\nb\x1b\x00", r"\u202eabc"]
    assert max(map(len, labels)) == LABEL
    assert [entry.split(": ", 1)[1] for entry in said(rows)[:-1]] == labels


def test_an_audit_s_report_fits(plain_tokenizer, rows):
    """The keys are the audit's own; a report of conversations has no such rule, and says so."""
    import copy

    tokenizer = templates.fit(copy.deepcopy(plain_tokenizer), "chatml")
    found = audit.pairs(rows["dpo"], tokenizer, 128).report
    fig = plots.word_rule(found)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == [w["word"] for w in found["word_rule"]["words"]]
    with pytest.raises(DataProblem, match="audit pairs"):
        plots.word_rule(audit.conversations(rows["sft"], tokenizer, 128).report)


def test_pictures_stay_small():
    """A committed notebook of many pictures must stay under 400 KB."""
    many = {f"source {k}": [(37 * i * (k + 1)) % 900 for i in range(500)] for k in range(5)}
    assert len(widgets.png(plots.lengths(many, 512))) < 80_000
    assert len(widgets.png(word_rule(report([f"word {i}" for i in range(10)])))) < 80_000
