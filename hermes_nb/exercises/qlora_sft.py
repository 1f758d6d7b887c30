"""Exercises of the SFT lesson: count what LoRA trains, and choose the mask that teaches stopping.

Lesson: 02_qlora_sft.
"""

from hermes_nb import estimate
from hermes_nb.exercises.common import solved, unsolved

COUNT_HINT = "one linear layer trains r * (in + out) numbers; sum over the named layers, then times 32"
MASK_HINT = 'the stop token that ends the answer is the last row of the table; write choice = "A", "B", "C" or "D"'

TOKENS = (
    "<|im_start|>", "user", "\n", "Why", " sleep", "?", "<|im_end|>", "\n",
    "<|im_start|>", "assistant", "\n", "It", " repairs", " you", ".", "<|im_end|>",
)  # fmt: skip
MASKS = {
    "A": (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0),
    "B": (0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0),
    "C": (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1),
    "D": (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0),
}
RIGHT_MASK = "C"
WHY_NOT = {
    "A": "every word of the answer is trained, but not the stop token after it: the model learns what to say, not when "
    "to end",
    "B": "it does train a stop token, but the one that ends the question; the one that ends the answer carries no loss",
    "D": "it is shifted by one: it trains the newline before the answer and misses the stop token behind it",
}


def parameters(hermes=None, all_linear=None) -> bool:
    """Check two counts of trainable numbers on Mistral-7B: r = 8 on q_proj and v_proj, r = 16 on all linear layers.

    By hand, one layer at r = 8: q 8 x (4096 + 4096) = 65,536, v 8 x (4096 + 1024) = 40,960, together 106,496; times
    32 layers: 3,407,872. One layer at r = 16: q and o 16 x 8192 = 131,072 each, k and v 16 x 5120 = 81,920 each, gate,
    up and down 16 x 18,432 = 294,912 each, together 1,310,720; times 32: 41,943,040.
    """
    if _untouched(hermes) and _untouched(all_linear):
        return unsolved(COUNT_HINT)
    for name, found, count, slips in (("hermes", hermes, *_hermes()), ("all_linear", all_linear, *_all_linear())):
        if _untouched(found):
            print(f"the other one is right. {name} is", end=" ")
            return unsolved(COUNT_HINT)
        if not _is(found, count):
            why = next((text for wrong, text in slips.items() if _is(found, wrong)), COUNT_HINT)
            print(f"{name}: {_shown(found)} is not it: {why}.")
            return False
    return solved(f"{hermes:,.0f} and {all_linear:,.0f} of {estimate.parameters(estimate.MISTRAL_7B):,} parameters")


def _hermes() -> tuple[int, dict[int, str]]:
    """The right count for q and v at r = 8, and known slips with what they mean."""
    shapes = estimate.linear_shapes(estimate.MISTRAL_7B, ("q_proj", "v_proj"))
    right = estimate.lora_parameters(shapes, 8)
    return right, {
        right // 32: "that is one layer, and Mistral-7B has 32",
        estimate.lora_parameters([(4096, 4096)] * 64, 8): "v_proj is not square, it goes from 4096 to 1024",
        sum(fan_in * fan_out for fan_in, fan_out in shapes): "in * out is the frozen matrix; LoRA has r * (in + out)",
        2 * right: "that is r = 16; here r is 8",
    }


def _all_linear() -> tuple[int, dict[int, str]]:
    """The right count for all linear layers at r = 16, and known slips with what they mean."""
    shapes = estimate.linear_shapes(estimate.MISTRAL_7B)
    right = estimate.lora_parameters(shapes, 16)
    square = [(4096, 4096)] * 4 + [(4096, 14336)] * 3
    attention = estimate.linear_shapes(estimate.MISTRAL_7B, estimate.ATTENTION)
    return right, {
        right // 32: "that is one layer, and Mistral-7B has 32",
        right // 2: "that is r = 8; here r is 16",
        estimate.lora_parameters(square * 32, 16): "k_proj and v_proj go from 4096 to 1024",
        estimate.lora_parameters(attention, 16): "gate_proj, up_proj and down_proj are linear layers too",
        right + 16 * (4096 + 32000): "the head is left out",
        sum(fan_in * fan_out for fan_in, fan_out in shapes): "in * out is the frozen matrix; LoRA has r * (in + out)",
    }


def mask_table() -> list[dict]:
    """One row a token of the shown conversation, with the 0 or 1 of each of the four masks."""
    names = [t.replace("\n", "↵") for t in TOKENS]
    return [{"token": n, **{k: m[i] for k, m in MASKS.items()}} for i, n in enumerate(names)]


def stopping(choice=None) -> bool:
    """Check the choice of the mask that teaches stopping: the only one with a 1 on the answer's own stop token.

    By hand: the last token of 16 is the stop token after the answer. A, B and D have a 0 there, C has a 1.
    """
    if _untouched(choice):
        return unsolved(MASK_HINT)
    name = choice.strip().upper() if isinstance(choice, str) else choice
    if name == RIGHT_MASK:
        return solved("C trains the answer and the stop token that ends it, and nothing else")
    reason = WHY_NOT.get(name) if isinstance(name, str) else None
    print(f"{choice!r} is not it: {reason}." if reason else f"{choice!r} is none of the four. Hint: {MASK_HINT}")
    return False


def _untouched(answer) -> bool:
    return answer is None or answer is ...


def _is(found, count: int) -> bool:
    """Whether an answer of any type is that number."""
    return isinstance(found, (int, float)) and not isinstance(found, bool) and found == count


def _shown(found) -> str:
    return f"{found:,}" if isinstance(found, (int, float)) else repr(found)
