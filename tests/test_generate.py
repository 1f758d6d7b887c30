"""Run alone: python -m pytest tests/test_generate.py"""

import pytest
import torch

from hermes_nb import generate, models, templates
from hermes_nb.errors import DataProblem
from hermes_nb.generate import Answer


@pytest.fixture
def ready(tiny_base, tiny_cache, cpu_fp32):
    return models.load_4bit(tiny_base), models.tokenizer(tiny_base, "chatml")


PROMPTS = [[{"role": "user", "content": "rain " * n}] for n in (9, 1, 5)]


def test_a_batch_answers_as_one_by_one(ready):
    """Left padding and positions: an answer must not depend on its neighbours."""
    model, tokenizer = ready
    together = generate.answers(model, tokenizer, PROMPTS, 12)
    assert together == [generate.answers(model, tokenizer, [p], 12)[0] for p in PROMPTS]


def test_an_answer_starts_from_the_training_prompt(ready, monkeypatch):
    """The ids that are sent are those that were trained on."""
    model, tokenizer = ready
    sent = []
    monkeypatch.setattr(
        generate, "_generate", lambda m, t, ids, n, how: sent.extend(ids) or [[t.eos_token_id]] * len(ids)
    )
    generate.answers(model, tokenizer, PROMPTS[:1], 4)
    assert sent == [templates.prompt_ids(tokenizer, PROMPTS[0])]


def test_stopping_is_told_from_running_out(ready):
    """The stop rate is the first thing that breaks in a tuned model."""
    tokenizer = ready[1]
    stop, word = tokenizer.eos_token_id, tokenizer.encode("rain")
    assert generate._answer(tokenizer, [*word, stop, stop]) == Answer("rain", True, len(word))
    assert generate._answer(tokenizer, word) == Answer("rain", False, len(word))


def test_sampling_follows_its_seed(ready):
    """A rate that changes at every call cannot be compared."""
    model, tokenizer = ready
    one, again, other = (generate.answers(model, tokenizer, PROMPTS, 12, generate.SAMPLED, seed=s) for s in (0, 0, 1))
    assert one == again != other


def test_training_mode_is_put_back(ready):
    """Answers in mid-training must not leave the model in eval mode."""
    model, tokenizer = ready
    model.train()
    generate.answers(model, tokenizer, PROMPTS, 2)
    assert model.training
    assert torch.is_grad_enabled()


def test_the_question_of_a_row_is_found():
    """A pair's prompt; a conversation up to its first answer."""
    talk = {"messages": [{"role": r, "content": "x"} for r in ("system", "user", "assistant", "user", "assistant")]}
    assert [m["role"] for m in generate.prompt_of(talk)] == ["system", "user"]
    assert generate.prompt_of({"prompt": PROMPTS[0]}) == PROMPTS[0]


@pytest.mark.parametrize(("temperature", "how"), [(0, generate.GREEDY), (1.0, generate.SAMPLED)])
def test_a_streamed_answer_is_the_one_of_a_batch(ready, temperature, how):
    """What a reader tries by hand must be what the tables count."""
    model, tokenizer = ready
    batch = generate.answers(model, tokenizer, PROMPTS[:1], 12, how, seed=5)
    assert [generate.stream(model, tokenizer, PROMPTS[0], print, 12, temperature, seed=5)] == batch


def test_text_grows_and_ends_with_the_answer(ready, monkeypatch):
    """One call at the end is no stream, and a last call that is missing leaves half an answer on the page."""
    monkeypatch.setattr(generate, "PAUSE", 0)
    said = []
    answer = generate.stream(*ready, PROMPTS[0], said.append, 16)
    assert len(said) > 8
    assert said[-1] == answer.text
    assert all(a.rstrip("\ufffd ") in b for a, b in zip(said[:-1], said[1:], strict=True))


def test_a_fast_model_speaks_rarely(ready, monkeypatch):
    """A hundred messages a second choke the page: ten, and the last."""
    now = iter(range(10_000))
    monkeypatch.setattr(generate.time, "monotonic", lambda: next(now) / 1000)
    said = []
    generate.stream(*ready, PROMPTS[0], said.append, 16)
    assert len(said) == 2


def test_half_a_character_is_never_said(plain_tokenizer, monkeypatch):
    """The first bytes of an emoji are no text; by themselves they show as a question mark in a lozenge."""
    monkeypatch.setattr(generate, "PAUSE", 0)
    said = []
    streamer = generate._watched(plain_tokenizer, said.append, None)["streamer"]
    streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    ids = plain_tokenizer.encode("a \U0001f33e \u00fc")
    assert len(ids) > 6
    for one in ids:
        streamer.put(torch.tensor([one]))
    assert said == ["a", "a \U0001f33e", "a \U0001f33e \u00fc"]


def test_stop_ends_an_answer_between_two_tokens(ready):
    """A button that waits for the last token is no Stop."""
    asked = []
    answer = generate.stream(*ready, PROMPTS[0], print, 64, stop=lambda: asked.append(1) or len(asked) == 5)
    assert (len(asked), answer.tokens, answer.stops) == (5, 5, False)


def test_an_error_while_speaking_comes_through_and_leaves_the_model_as_it_was(ready):
    """A page that is gone must not leave the model in eval mode."""
    ready[0].train()
    with pytest.raises(ZeroDivisionError):
        generate.stream(*ready, PROMPTS[0], lambda text: 1 / 0, 4)
    assert ready[0].training


def test_a_negative_temperature_is_refused(ready):
    """It would turn the distribution upside down."""
    with pytest.raises(DataProblem, match="below 0"):
        generate.stream(*ready, PROMPTS[0], print, 4, -1.0)


@pytest.mark.slow
def test_the_builtin_model_chats(builtin_model):
    """It answers in ChatML, in English, to the point."""
    model, tokenizer = builtin_model
    (answer,) = generate.answers(
        model, tokenizer, [[{"role": "user", "content": "What is the capital of France?"}]], 40
    )
    assert "Paris" in answer.text
    assert "<|im" not in answer.text
