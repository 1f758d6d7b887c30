"""Run alone: python -m pytest tests/test_models_nf4.py"""

import pytest
import torch

from hermes_nb.errors import DataProblem
from hermes_nb.models import nf4


def theirs(weights, blocksize):
    """The same round trip by bitsandbytes, single quantization."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return dequantize_4bit(*quantize_4bit(weights, blocksize=blocksize, quant_type="nf4", compress_statistics=False))


def test_the_grid_has_16_rising_levels_with_an_exact_zero():
    """Another table than bitsandbytes' would teach numbers that no model has."""
    levels = nf4.grid()
    assert levels.shape == (16,)
    assert (levels[0], levels[7], levels[15]) == (-1, 0, 1)
    assert (levels.diff() > 0).all()
    assert levels[8].item() == pytest.approx(0.0796, abs=1e-4)  # appendix E of the paper


def test_a_block_by_hand():
    """Scale, code and value must be those that one gets with pencil and paper.

    absmax of (-2, 0, 1, 0.1) is 2; divided: (-1, 0, 0.5, 0.05). Nearest levels: -1 (code 0), 0 (7), 0.4407 (12,
    distance 0.059; 0.5626 is 0.063 away), 0.0796 (8, distance 0.030; 0 is 0.05 away). Times 2: -2, 0, 0.881, 0.159.
    """
    block = nf4.quantize_block(torch.tensor([-2.0, 0.0, 1.0, 0.1]), nf4.grid())
    assert block.absmax == 2.0
    assert block.codes.tolist() == [0, 7, 12, 8]
    assert block.restored.tolist() == pytest.approx([-2.0, 0.0, 0.8814, 0.1592], abs=1e-4)


def test_a_block_of_zeros_stays_zero():
    """Division by a scale of 0 gives NaN, and a NaN weight ruins the whole layer."""
    assert nf4.quantize_block(torch.zeros(64), nf4.grid()).restored.tolist() == [0.0] * 64
    assert not nf4.round_trip(torch.zeros(4, 64)).any()


def test_a_matrix_is_no_block():
    """One scale for a whole matrix would pass unseen and restore it badly."""
    with pytest.raises(DataProblem, match="slice one row"):
        nf4.quantize_block(torch.zeros(2, 64), nf4.grid())


@pytest.mark.parametrize("blocksize", [32, 64, 256, 4096])
@pytest.mark.parametrize("shape", [(4096,), (1000,), (24, 256)])
def test_the_round_trip_is_that_of_bitsandbytes(shape, blocksize):
    """NF4 by hand that differs from the library's explains something that the model does not do."""
    weights = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    # flat: bitsandbytes 0.50.2 goes wrong on a CPU when a row is not a whole number of blocks
    expected = theirs(weights.flatten(), blocksize).reshape(shape)
    assert torch.allclose(nf4.round_trip(weights, blocksize), expected, atol=1e-6)


def test_a_block_is_a_row_of_the_round_trip():
    """The picture of one block and the map of the whole matrix must be the same arithmetic."""
    weights = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    by_hand = torch.stack([nf4.quantize_block(row, nf4.grid()).restored for row in weights])
    assert torch.equal(by_hand, nf4.round_trip(weights, 64))


def test_bits_of_the_paper():
    """4.5 and 4.127 bits are the paper's figures for blocks of 64 (section 3)."""
    assert nf4.bits(64, double=False) == 4.5
    assert nf4.bits(64) == pytest.approx(4.127, abs=5e-4)
    assert nf4.bits(256, double=False) == 4.125


def test_larger_blocks_cost_fewer_bits_and_more_error():
    """The slider's whole lesson: there is a price on both sides."""
    weights = torch.randn(64, 512, generator=torch.Generator().manual_seed(2))
    rows = nf4.trade_off(weights)
    assert [r["blocksize"] for r in rows] == sorted(r["blocksize"] for r in rows)
    for small, large in zip(rows, rows[1:], strict=False):
        assert large["single"] < small["single"]
        assert large["double"] < small["double"]
        assert large["error"] > small["error"]
    assert rows[1]["error"] == pytest.approx(0.092, abs=0.002)  # normal weights, blocks of 64
