"""NF4 by hand: 16 levels, one scale a block; the same numbers that bitsandbytes stores and gives back.

QLoRA, https://arxiv.org/abs/2305.14314, section 3. Lesson: 02_qlora_sft.
"""

from dataclasses import dataclass

from hermes_nb.errors import DataProblem

BLOCK = 64  # weights that share one scale, in bitsandbytes and in the paper
SCALES = 256  # scales that share one fp32 number, with double quantization


@dataclass(frozen=True)
class Block:
    """One quantized block of n weights: its scale, n codes from 0 to 15, and n restored weights."""

    absmax: float
    codes: object
    restored: object


def grid():
    """The 16 NF4 levels from -1 to 1, rising, as a tensor of shape (16,): bitsandbytes' own table.

    They are quantiles of a normal distribution: close together near 0, where most weights are.
    """
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("nf4", device="cpu")


def quantize_block(weights, levels) -> Block:
    """Quantize one block by hand: `weights` of shape (n,), `levels` of shape (16,) from `grid`.

    absmax = max |w|; code = number of the level nearest to w / absmax; restored = level * absmax. An all-zero block
    stays zero. Raises DataProblem unless `weights` is one row of at least one number.
    """
    import torch

    if weights.dim() != 1 or not len(weights):
        raise DataProblem(f"a block is one row of weights, not of shape {tuple(weights.shape)}; slice one row.")
    weights = weights.float()
    absmax = weights.abs().max()
    codes = torch.bucketize(weights / (absmax if absmax > 0 else 1.0), (levels[1:] + levels[:-1]) / 2)
    return Block(absmax.item(), codes, levels[codes] * absmax)


def round_trip(weights, blocksize: int = BLOCK):
    """`weights` of any shape through NF4 and back: fp32, same shape, blocks of `blocksize` along the flat tensor.

    Equal to bitsandbytes' quantize_4bit and dequantize_4bit without double quantization. (bitsandbytes 0.50.2 on a
    CPU restores wrong numbers when a row is not a whole number of blocks; this one does not.)
    """
    import torch

    levels = grid().to(weights.device)
    flat = weights.detach().float().flatten()
    count = len(flat)
    blocks = torch.cat([flat, flat.new_zeros(-count % blocksize)]).reshape(-1, blocksize)
    absmax = blocks.abs().amax(1, keepdim=True)
    codes = torch.bucketize(blocks / absmax.where(absmax > 0, 1.0), (levels[1:] + levels[:-1]) / 2)
    return (levels[codes] * absmax).flatten()[:count].reshape(weights.shape)


def error(weights, blocksize: int = BLOCK) -> float:
    """Relative error of `round_trip`: length of the difference over length of the weights (Frobenius norm)."""
    exact = weights.detach().float()
    return ((round_trip(weights, blocksize) - exact).norm() / exact.norm()).item()


def bits(blocksize: int = BLOCK, double: bool = True) -> float:
    """Bits a weight: 4 for the code and its share of the scale.

    A scale of 32 bits a block gives 4 + 32/64 = 4.5. Double quantization stores the scales in 8 bits, and one fp32
    number for 256 of them: 4 + 8/64 + 32/(64 * 256) = 4.127 (QLoRA, section 3).
    """
    return 4 + (8 / blocksize + 32 / (blocksize * SCALES) if double else 32 / blocksize)


def trade_off(weights, sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096)) -> list[dict]:
    """One row a block size: `blocksize`, `single` and `double` (bits a weight), `error` (relative, of `weights`)."""
    return [{"blocksize": n, "single": bits(n, False), "double": bits(n), "error": error(weights, n)} for n in sizes]
