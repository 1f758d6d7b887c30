"""Run alone: python -m pytest tests/test_templates.py"""

import pytest

from hermes_nb import templates
from hermes_nb.errors import RecipeProblem

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2"},
    {"role": "assistant", "content": "A2"},
]
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>"
)
ZEPHYR = "<|system|>\nS</s>\n<|user|>\nU1</s>\n<|assistant|>\nA1</s>\n<|user|>\nU2</s>\n<|assistant|>\nA2</s>"


@pytest.fixture(params=["chatml", "zephyr"])
def name(request):
    return request.param


@pytest.fixture
def fitted(plain_tokenizer, name):
    import copy

    return templates.fit(copy.deepcopy(plain_tokenizer), name)


def test_the_text_is_the_published_one_without_the_last_newline(fitted, name):
    """A newline after the stop token is trained as the end of every answer."""
    assert templates.render(fitted, TALK) == {"chatml": CHATML, "zephyr": ZEPHYR}[name]


def test_prompt_ids_are_a_prefix_of_the_whole(fitted):
    """If training's prompt differs from generation's, the model is asked something it was never trained on."""
    for last in (2, 4):
        prompt = templates.prompt_ids(fitted, TALK[:last])
        whole = fitted.apply_chat_template(TALK[: last + 1], return_dict=True)["input_ids"]
        assert whole[: len(prompt)] == prompt


def test_an_answer_ends_exactly_in_the_stop_token(fitted):
    """An answer without its stop token teaches the model never to stop."""
    row = {"prompt": TALK[:2], "chosen": TALK[2:3], "rejected": TALK[4:]}
    _, chosen, rejected = templates.pair_ids(fitted, row)
    for ids in (chosen, rejected):
        assert ids[-1] == fitted.eos_token_id
        assert ids.count(fitted.eos_token_id) == 1


def test_only_answers_and_their_stop_tokens_are_trained(fitted):
    """Loss on the user's words teaches the model to ask, not to answer."""
    ids, mask = templates.conversation_ids(fitted, TALK)
    trained = fitted.decode([i for i, m in zip(ids, mask, strict=True) if m])
    stop = fitted.eos_token
    assert trained == f"A1{stop}A2{stop}"


def test_no_start_token_is_added_that_the_template_does_not_print(fitted):
    """A BOS in front in training and none in generation (or two) is a silent mismatch."""
    assert fitted.bos_token_id not in templates.prompt_ids(fitted, TALK[:2])


def test_trl_finds_the_stop_token_trained(fitted):
    """TRL's own check of a template, which the published ones fail."""
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    assert is_chat_template_stop_token_trained(fitted)


def test_a_template_whose_stop_token_the_model_does_not_know_is_refused(plain_tokenizer):
    """ChatML on a base without its tokens: the stop token becomes six pieces, and no answer ever ends."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    poor = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({c: i for i, c in enumerate("<|>im_end")}, []))
    )
    with pytest.raises(RecipeProblem, match="not one token"):
        templates.fit(poor, "chatml")


def test_an_unknown_template_is_named():
    """The known ones are said."""
    with pytest.raises(RecipeProblem, match="chatml, zephyr"):
        templates.text("llama")


@pytest.mark.slow
def test_golden_ids_of_the_builtin_tokenizer(builtin_model):
    """Ids as the published ChatML gives them, less the newline after the last stop token (2)."""
    tokenizer = builtin_model[1]
    ids, mask = templates.conversation_ids(
        tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    )
    assert ids == [1, 4093, 198, 6004, 2, 198, 1, 520, 9531, 198, 31041, 2]
    assert mask == [0] * 10 + [1, 1]


@pytest.fixture(scope="module")
def builtin_zephyr():
    """The built-in tokenizer with Zephyr's stop token added, since its vocabulary lacks it."""
    from hermes_nb import models

    tokenizer = models.tokenizer("builtin", "chatml")
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    return templates.fit(tokenizer, "zephyr")


@pytest.mark.slow
def test_golden_zephyr_ids_of_the_builtin_tokenizer(builtin_zephyr):
    """Zephyr's tags are plain text to this tokenizer, so each is several ids; only the stop token is one (49152).

    As the published template gives them, less the newline after the last stop token.
    """
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    ids, mask = templates.conversation_ids(builtin_zephyr, messages)
    user, assistant = [44, 108, 4093, 108, 46, 198, 6004], [198, 44, 108, 520, 9531, 108, 46, 198, 31041]
    assert ids == [*user, 49152, *assistant, 49152]
    assert mask == [0] * 16 + [1, 1]
    assert templates.prompt_ids(builtin_zephyr, messages[:1]) == [*user, 49152, *assistant[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chatml", "zephyr"])
def test_trl_finds_both_templates_sound_on_the_builtin_tokenizer(name, builtin_zephyr):
    """TRL's own checks: a prompt's ids stay a prefix when turns follow, and the stop token is trained."""
    from trl.chat_template_utils import is_chat_template_prefix_preserving, is_chat_template_stop_token_trained

    from hermes_nb import models

    tokenizer = models.tokenizer("builtin", "chatml") if name == "chatml" else builtin_zephyr
    assert is_chat_template_prefix_preserving(tokenizer)
    assert is_chat_template_stop_token_trained(tokenizer)
