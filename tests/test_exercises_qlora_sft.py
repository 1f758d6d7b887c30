"""Run alone: python -m pytest tests/test_exercises_qlora_sft.py"""

import pytest

from hermes_nb.exercises import common, qlora_sft

HERMES, ALL = 3_407_872, 41_943_040  # worked out in the docstring of `parameters`


@pytest.mark.parametrize("nothing", [None, ...])
def test_untouched_exercises_print_a_hint(capsys, nothing):
    """Run All of a notebook that nobody has worked on must neither fail nor stay silent."""
    assert not qlora_sft.parameters(nothing, nothing)
    assert not qlora_sft.stopping(nothing)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert all(common.UNSOLVED in line and "Hint" in line for line in said)


def test_right_counts_are_solved(capsys):
    """The numbers worked out by hand are the package's; a float from a division counts as well."""
    assert qlora_sft.parameters(HERMES, ALL)
    assert qlora_sft.parameters(float(HERMES), ALL)
    assert capsys.readouterr().out.count("solved") == 2


def test_half_an_answer_is_not_solved(capsys):
    """One number of two must not print "solved", nor be called wrong."""
    assert not qlora_sft.parameters(HERMES, ...)
    said = capsys.readouterr().out
    assert "all_linear" in said
    assert common.UNSOLVED in said


@pytest.mark.parametrize(
    ("hermes", "all_linear", "why"),
    [
        (106_496, ALL, "32"),  # one layer
        (4_194_304, ALL, "1024"),  # v taken as square: 64 x 8 x 8192
        (671_088_640, ALL, "r * (in + out)"),  # in x out
        (2 * HERMES, ALL, "r is 8"),
        (HERMES, 1_310_720, "32"),
        (HERMES, 20_971_520, "r is 16"),
        (HERMES, 45_088_768, "1024"),  # k and v taken as square: 32 x 16 x (4 x 8192 + 3 x 18432)
        (HERMES, 13_631_488, "gate_proj"),  # attention only: 32 x 425,984
        (HERMES, ALL + 577_536, "head"),
        (5, ALL, "r * (in + out)"),
        ("three", ALL, "'three'"),
        (True, ALL, "hermes"),
    ],
)
def test_a_wrong_count_says_which_slip_it_is(capsys, hermes, all_linear, why):
    """ "Wrong" alone teaches nothing; the usual slips are named."""
    assert not qlora_sft.parameters(hermes, all_linear)
    said = capsys.readouterr().out
    assert why in said
    assert "solved" not in said


def test_only_one_mask_teaches_stopping(capsys):
    """Two right masks, or none, would make the question unfair."""
    assert [name for name, mask in qlora_sft.MASKS.items() if mask[-1]] == [qlora_sft.RIGHT_MASK]
    assert all(len(mask) == len(qlora_sft.TOKENS) for mask in qlora_sft.MASKS.values())
    for name in ("A", "B", "D"):
        assert not qlora_sft.stopping(name)
    assert "solved" not in capsys.readouterr().out
    assert qlora_sft.stopping("C")
    assert qlora_sft.stopping(" c ")
    assert "solved" in capsys.readouterr().out


@pytest.mark.parametrize("odd", ["E", 3, ["C"], {}, ""])
def test_an_odd_choice_is_answered_and_never_raises(capsys, odd):
    """A check that raises stops Run All."""
    assert not qlora_sft.stopping(odd)
    assert "none of the four" in capsys.readouterr().out


def test_the_table_shows_the_tokens_in_order():
    """The learner chooses from what is shown."""
    rows = qlora_sft.mask_table()
    assert [r["token"] for r in rows][-2:] == [".", "<|im_end|>"]
    assert [r["C"] for r in rows] == list(qlora_sft.MASKS["C"])
    assert set(rows[0]) == {"token", "A", "B", "C", "D"}
