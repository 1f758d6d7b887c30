"""The one renderer: messages to text and ids, the same for training and for generation.

Both templates print the newline *before* a turn. The published ones print it after the stop token, and DPO then
trains that newline as the end of every answer. Lessons: 00_tour, 01_preference_data.
"""

from pathlib import Path

from hermes_nb.errors import DataProblem, RecipeProblem

STOP = {"chatml": "<|im_end|>", "zephyr": "</s>"}


def text(name: str) -> str:
    """Return the Jinja source of template `name` (`chatml` or `zephyr`). Raises RecipeProblem for another name."""
    if name not in STOP:
        raise RecipeProblem(f"no chat template {name!r}; there are {', '.join(STOP)}.")
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def fit(tokenizer, name: str):
    """Give `tokenizer` our template, its stop token as `eos_token`, and a pad token; returns the tokenizer.

    Raises RecipeProblem when the stop token is not one id of the vocabulary (a model that would never stop).
    """
    stop = STOP.get(name) or text(name)
    if len(tokenizer.encode(stop, add_special_tokens=False)) != 1:
        raise RecipeProblem(
            f"template {name!r} ends a turn with {stop}, which is not one token of this model; "
            f"choose another template or a base model that knows it."
        )
    tokenizer.chat_template = text(name)
    tokenizer.eos_token = stop
    if tokenizer.pad_token is None or tokenizer.pad_token_id is None:
        tokenizer.pad_token = stop
    tokenizer.padding_side = "right"
    return tokenizer


def render(tokenizer, messages: list[dict], add_generation_prompt: bool = False) -> str:
    """Render messages as the text that the model sees."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """Ids of a prompt, ready for an answer: what training and generation both start from."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def conversation_ids(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Ids of a whole conversation and, for each id, 1 where SFT trains it (answers and their stop tokens)."""
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return out["input_ids"], out["assistant_masks"]


def pair_ids(tokenizer, row: dict) -> tuple[list[int], list[int], list[int]]:
    """Ids of prompt, chosen and rejected answer of one pair.

    Raises DataProblem when the prompt's ids are not a prefix of the whole: an answer that begins with blanks can merge
    with the template's newline, and TRL would then train on a prompt that is never generated from.
    """
    prompt = prompt_ids(tokenizer, row["prompt"])
    sides = []
    for side in ("chosen", "rejected"):
        whole = tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=True)["input_ids"]
        if whole[: len(prompt)] != prompt:
            raise DataProblem(f"{side}: its first characters merge with the prompt's end; strip the blanks before it.")
        sides.append(whole[len(prompt) :])
    return prompt, *sides


def piece(tokenizer, token: int) -> str:
    """The text of one token; a first blank that SentencePiece drops when it decodes is put back."""
    shown = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    blank = tokenizer.convert_ids_to_tokens(token).startswith("\u2581") and not shown.startswith(" ")
    return " " + shown if blank else shown
