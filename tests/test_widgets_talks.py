"""What a chat sends and shows. Run alone: python -m pytest tests/test_widgets_talks.py"""

import copy
from html.parser import HTMLParser

import pytest

from hermes_nb import generate, models, templates, views, widgets
from hermes_nb.generate import Answer
from hermes_nb.widgets import talks
from hermes_nb.widgets.talks import Turn

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> $x$ \u202e & more"


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


def test_the_history_of_a_model_is_what_it_said_itself():
    """An answer that broke off, put into its mouth, would change the next one; a blank system turn is none."""
    turns = [Turn("one", "1", kept=True), Turn("broken", "half")]
    sent = talks.conversation("Be brief.", turns, "two")
    assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in sent] == ["Be brief.", "one", "1", "two"]
    assert talks.conversation(" \n", [], "two") == [{"role": "user", "content": "two"}]


def test_the_prompt_shown_is_the_renderers_and_is_shown_once_for_all_who_get_it(tokenizer):
    """A second renderer would show what no model gets."""
    same, other = [{"role": "user", "content": "a\n<b>"}], [{"role": "user", "content": "c"}]
    shown = talks.prompts(tokenizer, {"sft": same, "dpo": list(same), "base": other})
    for messages in (same, other):
        assert shown.count(views.text(templates.render(tokenizer, messages, True))) == 1
    assert "<b>sft, dpo</b>" in shown
    assert views.text("<|im_start|>assistant") in shown


def test_no_text_of_a_talk_becomes_an_element(tokenizer):
    """An answer may hold a script: the reader's page would run it."""
    html = talks.column([Turn(EVIL, EVIL, EVIL)])
    html += talks.prompts(tokenizer, {EVIL: [{"role": r, "content": EVIL} for r in ("system", "user")]})
    elements = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            elements.append(tag)

    Parser().feed(html)
    assert set(elements) <= {"div", "b", "i", "br", "span"}
    assert "\u202e" not in html


@pytest.mark.parametrize(
    ("stops", "stopped", "said"),
    [(True, True, "ended by itself"), (False, True, "stopped by you"), (False, False, "cut off at the limit")],
)
def test_the_foot_says_how_an_answer_ended(stops, stopped, said):
    """An answer cut at the limit is no answer of the model; 30 tokens in 2 seconds are 15 a second."""
    assert talks.foot(Answer("x", stops, 30), 2.0, stopped) == f"30 tokens, {said}, 2.0 s, 15.0 tokens/s"
    talks.foot(Answer("", stops, 0), 0.0, stopped)


def test_a_speaker_lets_its_adapter_act_and_draws_anew(monkeypatch):
    """The name of a column must be the model that answers; two draws with one seed are one draw."""
    acting, seen = [], []

    class Acts:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            acting.append(self.name)

        def __exit__(self, *error):
            acting.pop()

    def stream(model, tokenizer, messages, say, max_new_tokens, temperature, seed, stop):
        seen.append((list(acting), messages, max_new_tokens, temperature, seed))
        return Answer("x", True, 1)

    monkeypatch.setattr(models, "active", lambda model, name: Acts(name))
    monkeypatch.setattr(generate, "stream", stream)
    adapted, plain = widgets.speaker("m", "t", "dpo", seed=3), widgets.speaker("m", "t")
    for speak in (adapted, adapted, plain):
        speak(["q"], temperature=0.5, say=print, stop=None, max_new_tokens=9)
    assert seen == [(["dpo"], ["q"], 9, 0.5, 3), (["dpo"], ["q"], 9, 0.5, 4), (["base"], ["q"], 9, 0.5, 0)]
