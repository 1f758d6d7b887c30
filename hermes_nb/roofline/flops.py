"""Floating-point operations of QLoRA training: the base is frozen, so its weights get no gradient.

A multiplication and an addition count as two. With N weights in the linear layers, a the attention, H the head, l the
adapter, a token takes forward F = 2N + a + H + l, backward B = 2N + 2a + H + 2l (the frozen base passes gradients on
and computes none for itself), the reference's forward 2N + a + H, and, with gradient checkpointing, the layers'
forward again, R = 2N + a + l. Norms, activations, softmax and the optimizer are left out: under 1 % of a 7B model.
Lessons: 02_qlora_sft, 03_dpo.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hermes_nb.errors import RecipeProblem
from hermes_nb.roofline.shape import ALL_LINEAR, Shape, adapter_parameters, linear_parameters

Pair = Sequence[int]  # tokens of prompt, chosen answer, rejected answer

LAYOUTS = ("packed", "padded")
REFERENCES = ("on_the_fly", "cached")
HEADS = ("answers", "all")


@dataclass(frozen=True)
class Work:
    """What is computed: `tokens` laid, `sees` (query, key) pairs that attention joins, `scored` tokens of the head."""

    tokens: float
    sees: float
    scored: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.sees + other.sees, self.scored + other.scored)


def token(length: float, answers: float) -> Work:
    """One token of a row of `length` tokens, of which the share `answers` is scored: it sees length / 2 on average."""
    return Work(1, length / 2, answers)


def row(prompt: int, answer: int) -> Work:
    """One whole row, prompt and answer, in tokens: a token sees itself and all before it."""
    whole = prompt + answer
    return Work(whole, whole * (whole + 1) / 2, answer)


def packed(pairs: Iterable[Pair]) -> Work:
    """Pairs with the prompt computed once and no padding: real tokens only.

    A pair has prompt + chosen + rejected tokens; both answers see the prompt, and not each other.
    """
    total = Work(0, 0, 0)
    for prompt, chosen, rejected in pairs:
        total += row(prompt, chosen) + Work(rejected, rejected * prompt + rejected * (rejected + 1) / 2, rejected)
    return total


def padded(pairs: Sequence[Pair], head: str = "answers") -> Work:
    """Pairs as one padded micro-batch: two rows a pair, the prompt in both, all as long as the longest.

    Padding is counted, because it is computed. `head`: scores the answers alone (TRL 1.16), or every position (`all`,
    older versions). Raises RecipeProblem for another word.
    """
    _one_of("head", head, HEADS)
    sides = [(prompt, answer) for prompt, *answers in pairs for answer in answers]
    longest = max((sum(side) for side in sides), default=0)
    laid = longest * len(sides)
    scored = laid if head == "all" else sum(answer for _, answer in sides)
    return Work(laid, len(sides) * longest * (longest + 1) / 2, scored)


def conversations(rows: Sequence[tuple[int, int]], layout: str = "packed") -> Work:
    """Conversations, each (rest, answers) in tokens: real tokens only, or `padded` as one micro-batch.

    Raises RecipeProblem for another layout.
    """
    _one_of("layout", layout, LAYOUTS)
    total = sum((row(*one) for one in rows), Work(0, 0, 0))
    if layout == "packed":
        return total
    longest = max(map(sum, rows), default=0)
    return Work(longest * len(rows), len(rows) * longest * (longest + 1) / 2, total.scored)


def forward(shape: Shape, work: Work, adapter: int = 0, head: bool = True) -> float:
    """FLOPs of a forward pass; `adapter` is the number of its parameters (0: switched off), `head` off leaves it out.

    Attention: two products of 2 x hidden operations for each (query, key) pair and layer.
    """
    scores = 2 * shape.hidden * shape.vocab * work.scored if head else 0
    return 2 * (linear_parameters(shape) + adapter) * work.tokens + 4 * shape.layers * shape.hidden * work.sees + scores


def backward(shape: Shape, work: Work, adapter: int) -> float:
    """FLOPs of a backward pass: inputs get gradients everywhere, weights in the adapter alone."""
    return (
        2 * (linear_parameters(shape) + 2 * adapter) * work.tokens
        + 8 * shape.layers * shape.hidden * work.sees
        + 2 * shape.hidden * shape.vocab * work.scored
    )


def training(shape: Shape, work: Work, adapter: int, *, checkpointing: bool = False, reference: bool = False) -> float:
    """FLOPs of training on `work`: forward, backward, the layers' forward again with `checkpointing`, `reference`."""
    total = forward(shape, work, adapter) + backward(shape, work, adapter)
    total += forward(shape, work, adapter, head=False) if checkpointing else 0
    return total + (forward(shape, work) if reference else 0)


def dpo_flops(
    shape: Shape, pairs: Sequence[Pair], *, rank: int = 16, targets: Iterable[str] = ALL_LINEAR,
    checkpointing: bool = False, reference: str = "on_the_fly", layout: str = "packed", head: str = "answers",
) -> float:  # fmt: skip
    """FLOPs of DPO on `pairs`, each the tokens of (prompt, chosen, rejected).

    `packed` counts real tokens, the prompt of a pair once: the work that no exact method can leave out, and what a
    share of the roofline is taken of, however the pairs were laid: `share(dpo_flops(shape, pairs, ...), seconds, gpu)`.
    `padded` counts what one padded micro-batch of all these pairs computes. `reference`: its forward is part of the
    step (`on_the_fly`), or was done before (`cached`; what it cost then: `reference_flops`). With `checkpointing` the
    recomputed forward counts as work. Raises RecipeProblem for other words.
    """
    _one_of("layout", layout, LAYOUTS)
    _one_of("reference", reference, REFERENCES)
    work = packed(pairs) if layout == "packed" else padded(pairs, head)
    adapter = adapter_parameters(shape, rank, tuple(targets))
    return training(shape, work, adapter, checkpointing=checkpointing, reference=reference == "on_the_fly")


def reference_flops(shape: Shape, pairs: Sequence[Pair]) -> float:
    """FLOPs of scoring `pairs` once with the reference, packed."""
    return forward(shape, packed(pairs))


def sft_flops(
    shape: Shape, rows: Sequence[tuple[int, int]], *, rank: int = 16, targets: Iterable[str] = ALL_LINEAR,
    checkpointing: bool = False, layout: str = "packed",
) -> float:  # fmt: skip
    """FLOPs of SFT on `rows`, each (rest, answers) in tokens, the answers scored; laid as `conversations` says."""
    work, adapter = conversations(rows, layout), adapter_parameters(shape, rank, tuple(targets))
    return training(shape, work, adapter, checkpointing=checkpointing)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RecipeProblem(f"{name}: no {value!r}; there are {', '.join(known)}.")
