"""Sizes of the base models that recipes name."""

from dataclasses import replace
from pathlib import Path

from hermes_nb.errors import RecipeProblem
from hermes_nb.roofline import MISTRAL_7B, SMOLLM2_135M, Shape, shape_of

# config.json of LLM360/AmberChat: as LLaMA-7B, 32 heads of 128 for all of q, k and v
LLAMA_7B = Shape("LLaMA-7B", 4096, 32, 4096, 11008, 32000, False)
# teknium/OpenHermes-2.5-Mistral-7B added ChatML's two tokens
OPENHERMES_7B = replace(MISTRAL_7B, name="OpenHermes-2.5-Mistral-7B", vocab=32002)

SHAPES = {
    "builtin": SMOLLM2_135M,
    "mistralai/Mistral-7B-v0.1": MISTRAL_7B,
    "alignment-handbook/zephyr-7b-sft-qlora": MISTRAL_7B,
    "alignment-handbook/zephyr-7b-sft-full": MISTRAL_7B,
    "teknium/OpenHermes-2.5-Mistral-7B": OPENHERMES_7B,
    "LLM360/AmberChat": LLAMA_7B,
}


def base_shape(base: str) -> Shape:
    """The sizes of a recipe's base: a known name, or a model folder. Raises RecipeProblem for another name."""
    if base in SHAPES:
        return SHAPES[base]
    if (Path(base) / "config.json").is_file():
        from transformers import AutoConfig

        return shape_of(AutoConfig.from_pretrained(base), Path(base).name)
    raise RecipeProblem(
        f"the sizes of {base!r} are not known here; known are {', '.join(SHAPES)}, and any model folder."
    )
