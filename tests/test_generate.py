"""Run alone: python -m pytest tests/test_generate.py"""

import pytest
import torch

from hermes_nb import generate, models, templates
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


@pytest.mark.slow
def test_the_builtin_model_chats(builtin_model):
    """It answers in ChatML, in English, to the point."""
    model, tokenizer = builtin_model
    (answer,) = generate.answers(
        model, tokenizer, [[{"role": "user", "content": "What is the capital of France?"}]], 40
    )
    assert "Paris" in answer.text
    assert "<|im" not in answer.text
