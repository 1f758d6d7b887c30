"""Ids as the trainer sees them, cut at control tokens. Run alone: python -m pytest tests/test_audit_tokens.py"""

import copy
from types import SimpleNamespace

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_nb import audit, models, templates
from hermes_nb.audit import strings, tokens


@pytest.fixture(params=["chatml", "zephyr"])
def tokenizer(request, tiny_base):
    return models.tokenizer(tiny_base, request.param)


def said(role, content):
    return {"role": role, "content": content}


def pair(chosen="short answer", rejected="one line about bread", *before):
    return {
        "prompt": [*before, said("user", "what is rain")],
        "chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)],
    }  # fmt: skip


def lengths(encoder, row):
    texts, fault = encoder.texts(row)
    return encoder.tokens(texts, encoder.encode(texts[:-1]), fault)


def trl_ids(tokenizer, rows, max_length=10_000):
    """What TRL's own preparation makes of the rows."""
    from trl import DPOTrainer

    args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start")
    return DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")


ROWS = [
    pair(),
    pair("one\n\nshort line", "a question. " * 20, said("system", "answers")),
    pair("\u96e8\u3068\u2614", "it was \u00e9t\u00e9", said("user", "today"), said("assistant", "bread")),
]


def test_lengths_are_those_of_trl(tokenizer):
    """An audit that counts other tokens than the trainer keeps rows that the trainer cuts."""
    theirs = trl_ids(tokenizer, datasets.Dataset.from_list(ROWS))
    encoder = tokens.Encoder(tokenizer)
    for row, ids in zip(ROWS, theirs, strict=True):
        found = lengths(encoder, row)
        assert (found.prompt, *found.answers) == tuple(len(ids[f"{p}_ids"]) for p in ("prompt", "chosen", "rejected"))
        assert found.fault is None


@pytest.mark.parametrize("variant", [("neuralhermes", "<|im_end|>\n"), ("dpopenhermes", "<|im_end|>")])
def test_rendered_rows_are_counted_as_trl_does(variant, tiny_base):
    """TRL appends a stop token to a text, and the tokenizer a start token; left out, every length would be wrong."""
    tokenizer, ending = models.tokenizer(tiny_base, "chatml"), variant[1]
    row = {"prompt": "<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n", "chosen": "a line" + ending,
           "rejected": "bread" + ending}  # fmt: skip
    theirs = trl_ids(tokenizer, datasets.Dataset.from_list([row]))[0]
    found = strings.tokens(tokenizer, row)
    assert (found.prompt, *found.answers) == tuple(len(theirs[f"{p}_ids"]) for p in ("prompt", "chosen", "rejected"))


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.sampled_from(
    ["\n", "  a", "\n\n b", "\t", "<", "|>", "</ s>", "\u2028x", "a\r\n"]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(words, min_size=3, max_size=3), st.booleans())
def test_cutting_at_a_control_token_changes_no_id(plain_tokenizer, said_words, zephyr):
    """The promise of speed: what stands before the cut and after it, encoded apart, are the ids of the whole."""
    tokenizer = templates.fit(copy.deepcopy(plain_tokenizer), "zephyr" if zephyr else "chatml")
    row = pair(said_words[0], said_words[1], said("user", said_words[2]), said("assistant", "b"))
    texts, fault = tokens.Encoder(tokenizer).texts(row)
    assert texts[0]
    assert fault is None
    backend = tokenizer.backend_tokenizer
    prompt = templates.render(tokenizer, row["prompt"], add_generation_prompt=True)
    for side, text in zip(("chosen", "rejected"), texts[1:-1], strict=True):
        whole = templates.render(tokenizer, row["prompt"] + row[side])
        parts = [backend.encode(t, add_special_tokens=False).ids for t in (texts[0], text)]
        assert parts[0] + parts[1] == backend.encode(whole, add_special_tokens=False).ids
    assert texts[0] + texts[-1] == prompt


def test_an_answer_that_merges_with_the_prompt_is_found(tokenizer):
    """Two newlines are one token here: the trained prompt would lack the newline that generation starts from."""
    assert lengths(tokens.Encoder(tokenizer), pair("\n\nanswer")).fault == ("prompt not a prefix", "chosen")


def test_a_control_token_that_eats_blanks_is_no_place_to_cut(plain_tokenizer):
    """With rstrip, the blanks after the token belong to it: cut there, both halves would be other tokens."""
    from tokenizers import AddedToken

    greedy = copy.deepcopy(plain_tokenizer)
    greedy.add_special_tokens({"additional_special_tokens": [AddedToken("<|assistant|>", rstrip=True)]})
    templates.fit(greedy, "zephyr")
    encoder = tokens.Encoder(greedy)
    assert "<|assistant|>" not in encoder.controls
    row = pair("  short", "line")
    found = lengths(encoder, row)
    assert (found.prompt, *found.answers) == tokens.whole_lengths(greedy, row)


def test_the_first_rows_are_compared_with_their_whole_texts(tokenizer, monkeypatch):
    """If cutting ever changed the ids, no text is cut from the first batch on: slower, but right."""
    encoder = tokens.Encoder(tokenizer)
    encoder.prove(ROWS)
    assert encoder.controls
    monkeypatch.setattr(tokens, "whole_lengths", lambda *_: (0, 0, 0))
    encoder.prove(ROWS)
    assert encoder.controls == []
    monkeypatch.undo()
    found = lengths(encoder, ROWS[1])
    assert (found.prompt, *found.answers) == tokens.whole_lengths(tokenizer, ROWS[1])


def test_how_the_tokenizer_was_used_before_makes_no_difference(tokenizer):
    """It remembers padding and truncation of the last call: every answer would end in padding, or in mid-word."""
    before = [lengths(tokens.Encoder(tokenizer), row) for row in ROWS]
    tokenizer(["a b c", "d"], padding=True)
    assert [lengths(tokens.Encoder(tokenizer), row) for row in ROWS] == before
    tokenizer("a b c", truncation=True, max_length=3)
    assert [lengths(tokens.Encoder(tokenizer), row) for row in ROWS] == before


def test_a_template_that_refuses_a_role_drops_the_row(tiny_base):
    """Gemma's template raises on a system turn: one such row must not end the audit."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        tokenizer.chat_template
    )
    assert report(ROWS, tokenizer) == {"render unlike generation": 1}


def test_a_template_that_leaves_the_stop_token_untrained_is_named(tiny_base):
    """With the stop token outside the marks of what is trained, SFT shows every answer but never its end."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    outside = tokenizer.chat_template.replace(
        "{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}",
        "{{- message['content'] -}}{%- endgeneration -%}{{- '<|im_end|>' -}}",
    )
    assert outside != tokenizer.chat_template
    tokenizer.chat_template = outside
    talk = {"messages": [said("user", "q"), said("assistant", "a")], "source": "here", "row": 0}
    found = audit.conversations(datasets.Dataset.from_list([talk]), tokenizer, 64)
    assert found.report["reasons"] == {"stop token untrained": 1}


def report(rows, tokenizer, **how):
    numbered = [row | {"source": "here", "row": i} for i, row in enumerate(rows)]
    return audit.pairs(datasets.Dataset.from_list(numbered), tokenizer, 64, near=False, **how).report["reasons"]


PUBLISHED = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (PUBLISHED + ASKS, "stop token not last"),
        (PUBLISHED.replace("<|im_end|>\n'", "<|im_end|><|im_end|>'") + ASKS, "stop token doubled"),
        (PUBLISHED + "{% if add_generation_prompt %}{{ '<|im_start|>me\n' }}{% endif %}", "render unlike generation"),
        (PUBLISHED.replace(" + '<|im_end|>\n'", ""), "render unlike generation"),
    ],
)
def test_a_template_that_teaches_a_wrong_end_is_named(template, reason, tiny_base):
    """The published ChatML prints a newline after the stop token, and that newline becomes the end of every answer."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    tokenizer.chat_template = template
    if reason == "render unlike generation" and "<|im_end|>" not in template:
        tokenizer.chat_template += ASKS.replace("assistant", "helper")
    assert report([pair()], tokenizer) == {reason: 1}


BOS = "<s>"


@pytest.mark.parametrize(
    ("prompt", "chosen", "reason"),
    [
        ("<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n", "a line", None),
        ("<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n", "a line<|im_end|>\n", "stop token doubled"),
        ("<|im_start|>user\nrain<|im_end|>\n", "a line", "render unlike generation"),
        ("rain", "a line", "render unlike generation"),
        ("rain", " ", "empty answer"),
        ("rain", "bread", "identical answers"),
    ],
)
def test_rendered_rows_are_held_to_the_same(prompt, chosen, reason, tiny_base):
    """Rows of published scripts come as texts: what is wrong with them shows in their ids only."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    row = {"prompt": prompt, "chosen": chosen, "rejected": "bread"}
    assert report([row], tokenizer) == ({reason: 1} if reason else {})


@pytest.mark.parametrize(("prompt", "reason"), [("", "BOS not printed"), (BOS, "BOS doubled")])
def test_a_start_token_that_generation_has_not_is_named(prompt, reason, plain_tokenizer):
    """A tokenizer that adds its start token to every text: trained with it, generated without (or with two)."""
    from tokenizers import processors

    adding = copy.deepcopy(plain_tokenizer)
    start = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 3)])
    adding.backend_tokenizer.post_processor = start
    templates.fit(adding, "chatml")
    text = "<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n"
    row = {"prompt": prompt + text, "chosen": "a line", "rejected": "bread"}
    assert report([row], adding) == {reason: 1}
    assert report([pair()], adding) == {}  # messages get no start token from TRL


def test_the_first_token_of_a_template_is_no_start_token_too_many(tiny_base):
    """SmolLM2's start token is the `<|im_start|>` of every turn: counting it would condemn every row."""
    tokenizer = models.tokenizer(tiny_base, "chatml")
    tokenizer.bos_token = "<|im_start|>"
    row = {"prompt": "<|im_start|>user\nrain<|im_end|>\n<|im_start|>assistant\n", "chosen": "a", "rejected": "b"}
    assert report([row], tokenizer) == report([pair()], tokenizer) == {}


def test_all_cores_are_used_in_the_block_and_only_there(monkeypatch):
    """Left on, a tokenizer's threads and a trainer's forks meet in a deadlock or a page of warnings."""
    import os

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with audit.all_cores():
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    with audit.all_cores():
        pass
    assert "TOKENIZERS_PARALLELISM" not in os.environ
