"""The chat box. Run alone: python -m pytest tests/test_widgets_chat.py"""

import copy
import importlib
import threading

import pytest
from test_widgets_events import click, client, subshell, told  # noqa: F401

from hermes_nb import templates, views, widgets
from hermes_nb.errors import DataProblem
from hermes_nb.generate import Answer
from hermes_nb.widgets import events

EVIL = "<script>alert(1)</script> $x$"
chat_box = importlib.import_module("hermes_nb.widgets.chat")  # the package shows the function of that name


@pytest.fixture
def tokenizer(plain_tokenizer):
    return templates.fit(copy.deepcopy(plain_tokenizer), "chatml")


class Fake:
    """A speaker that says its words one after the other, asks `stop` between them, and notes what it got."""

    def __init__(self, *words, before=lambda count: None):
        self.words, self.before, self.got, self.asked = words, before, [], 0

    def __call__(self, messages, temperature, say, stop, max_new_tokens):
        self.got.append({"messages": messages, "temperature": temperature, "limit": max_new_tokens})
        for count in range(1, len(self.words) + 1):
            self.before(count)
            say(" ".join(self.words[:count]))
            self.asked += 1
            if stop():
                return Answer(" ".join(self.words[:count]), False, count)
        return Answer(" ".join(self.words), True, len(self.words))


def ask(panel, question):
    panel.controls["question"].value = question
    panel.controls["ask"].click()


def test_answers_grow_in_their_columns_one_model_after_the_other(shown):
    """All at once at the end is what the box is there to avoid."""
    panel = widgets.chat({"sft": Fake("It", "is", "rain."), "dpo": Fake("A", "card.")})
    seen = []
    for name in ("sft", "dpo"):
        panel.outputs[f"answer {name}"].observe(lambda c, name=name: seen.append((name, c["new"])), "value")
    ask(panel, "Why?")
    parts = [("sft", "It"), ("sft", "It is"), ("sft", "It is rain."), ("dpo", "A"), ("dpo", "A card.")]
    found = [(name, html) for name, html in seen if "is writing" in html]
    assert [name for name, _ in found] == [name for name, _ in parts]
    assert all(f">{text}<" in html for (_, html), (_, text) in zip(found, parts, strict=True))
    assert "3 tokens, ended by itself" in panel.outputs["answer sft"].value
    assert "<b>Why?</b>" in panel.outputs["answer dpo"].value
    assert panel.controls["question"].value == ""


def test_each_model_sees_its_own_history(shown):
    """Another model's answer put into its mouth would be copied."""
    sft, dpo = Fake("padded"), Fake("card")
    panel = widgets.chat({"sft": sft, "dpo": dpo}, system="Be brief.")
    ask(panel, "one")
    panel.controls["use dpo"].value = False
    ask(panel, "two")
    panel.controls["use dpo"].value = True
    ask(panel, "three")
    said = [[m["content"] for m in who.got[-1]["messages"]] for who in (sft, dpo)]
    assert said == [
        ["Be brief.", "one", "padded", "two", "padded", "three"],
        ["Be brief.", "one", "card", "three"],
    ]
    panel.controls["new"].click()
    ask(panel, "four")
    assert [m["content"] for m in sft.got[-1]["messages"]] == ["Be brief.", "four"]


def test_a_new_conversation_puts_the_first_question_back(shown):
    """Who asks again at another temperature should not type again; what was typed since is kept."""
    panel = widgets.chat({"sft": Fake("x")})
    ask(panel, "one")
    ask(panel, "two")
    panel.controls["new"].click()
    assert (panel.controls["question"].value, panel.outputs["answer sft"].value) == ("one", "")
    panel.controls["question"].value = "mine"
    panel.controls["new"].click()
    assert panel.controls["question"].value == "mine"


def test_temperature_and_limit_are_those_of_the_moment_of_asking(shown):
    """A slider moved while the first model answers must not give the second another temperature."""
    panel = None
    dpo = Fake("y")
    sft = Fake("x", before=lambda count: setattr(panel.controls["temperature"], "value", 1.5))
    panel = widgets.chat({"sft": sft, "dpo": dpo})
    panel.controls["temperature"].value, panel.controls["limit"].value = 0.0, 64
    ask(panel, "q")
    assert [(g["temperature"], g["limit"]) for g in sft.got + dpo.got] == [(0.0, 64)] * 2


def test_stop_is_heard_between_two_tokens_and_ends_the_round(shown, monkeypatch):
    """The kernel is busy in the callback: clicks come in only where they are let in."""
    panel, clicks = None, [2]  # while which word the reader clicks
    waiting = []
    monkeypatch.setattr(events, "let_in", lambda *mine: waiting and waiting.pop().click())

    def read(count):
        if count in clicks:
            clicks.remove(count)
            waiting.append(panel.controls["stop"])

    sft = Fake("one", "two", "three", before=read)
    dpo = Fake("never")
    panel = widgets.chat({"sft": sft, "dpo": dpo})
    ask(panel, "q")
    assert "one two<" in panel.outputs["answer sft"].value
    assert "2 tokens, stopped by you" in panel.outputs["answer sft"].value
    assert "was not asked: stopped" in panel.outputs["answer dpo"].value
    assert (sft.asked, dpo.got) == (2, [])
    ask(panel, "again")
    assert "3 tokens, ended by itself" in panel.outputs["answer sft"].value  # a Stop counts once
    assert [m["content"] for m in dpo.got[0]["messages"]] == ["again"]


def test_the_buttons_say_what_can_be_done_now(shown):
    """A second Ask while one is running would mix two answers; a Stop with nothing to stop is a riddle."""
    panel, seen = None, []

    def look(count):
        seen.append([panel.controls[name].disabled for name in ("ask", "stop", "new")])

    panel = widgets.chat({"sft": Fake("x", before=look)})
    before = [panel.controls[name].disabled for name in ("ask", "stop", "new")]
    ask(panel, "q")
    assert seen == [[True, False, True]]
    assert before == [panel.controls[name].disabled for name in ("ask", "stop", "new")] == [False, True, False]


def test_an_error_is_told_in_its_column_and_the_others_answer(shown):
    """An exception in a callback is lost, and the page would wait for ever."""

    def broken(messages, temperature, say, stop, max_new_tokens):
        say("half an ans")
        raise ValueError(f"no memory {EVIL}")

    dpo = Fake("fine")
    panel = widgets.chat({"sft": broken, "dpo": dpo})
    ask(panel, "q")
    told = panel.outputs["answer sft"].value
    assert views.text(f"broke off: ValueError: no memory {EVIL}") in told
    assert "fine" in panel.outputs["answer dpo"].value
    assert not panel.controls["ask"].disabled
    ask(panel, "r")  # the lock is free again
    assert len(dpo.got) == 2


def test_an_interrupt_ends_the_round(shown):
    """The kernel's own stop button is pressed when a page hangs; the box must work afterwards."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    dpo = Fake("never")
    panel = widgets.chat({"sft": interrupted, "dpo": dpo})
    ask(panel, "q")
    assert "was interrupted" in panel.outputs["answer sft"].value
    assert dpo.got == []
    assert not panel.controls["ask"].disabled


def test_nothing_to_ask_is_a_sentence(shown):
    """A button that does nothing looks broken."""
    fake = Fake("x")
    panel = widgets.chat({"sft": fake})
    ask(panel, "  ")
    assert "Type a question first" in panel.outputs["note"].value
    panel.controls["use sft"].value = False
    ask(panel, "q")
    assert "Tick the models" in panel.outputs["note"].value
    assert fake.got == []


def test_two_boxes_do_not_answer_at_once(shown):
    """Both use the same weights: the second would change the adapter under the first."""
    inner = Fake("never")
    second = widgets.chat({"dpo": inner})
    first = widgets.chat({"sft": Fake("x", before=lambda count: ask(second, "now?"))})
    ask(first, "q")
    assert inner.got == []
    assert "An answer is being written" in second.outputs["note"].value
    assert second.controls["question"].value == "now?"
    second.controls["ask"].click()
    assert len(inner.got) == 1


def test_enter_asks_after_the_last_letters_have_come(shown, monkeypatch):
    """Pages send one change at a time: the end of a fast question arrives after its Enter."""
    monkeypatch.setattr(chat_box, "SETTLE", 0)
    fake = Fake("x")
    panel = widgets.chat({"sft": fake})
    box = panel.controls["question"]
    monkeypatch.setattr(events, "let_in", lambda *mine: setattr(box, "value", "What is rain?") if not fake.got else 0)
    box.value = "What is rai"
    box._handle_custom_msg({"event": "other"}, [])
    assert fake.got == []
    box._handle_custom_msg({"event": "submit"}, [])
    assert [g["messages"][-1]["content"] for g in fake.got] == ["What is rain?"]


def test_where_a_callback_blocks_clicks_the_answer_is_written_in_a_thread(shown):
    """A subshell handles one click after the other, and nothing can be let in there: a Stop would wait for the end."""
    begun, pressed = threading.Event(), threading.Event()
    fake = Fake("one", "two", "three", before=lambda count: count == 2 and (begun.set(), pressed.wait(20)))
    panel = widgets.chat({"sft": fake})
    shell = threading.Thread(target=ask, args=(panel, "q"), daemon=True)
    shell.start()
    assert begun.wait(20)
    shell.join(20)
    assert not shell.is_alive()
    assert panel.controls["ask"].disabled
    panel.controls["stop"].click()
    (worker,) = [t for t in threading.enumerate() if t.name == "chat"]
    pressed.set()
    worker.join(20)
    assert "2 tokens, stopped by you" in panel.outputs["answer sft"].value
    assert not panel.controls["ask"].disabled


SLOW = """
import time
from hermes_nb import widgets
from hermes_nb.generate import Answer

def slow(messages, temperature, say, stop, max_new_tokens):
    for n in range(1, 3000):
        say("word " * n)
        time.sleep(0.01)
        if stop():
            return Answer("word", False, n)
    return Answer("word", True, 3000)

panel = widgets.chat({"sft": slow}, question="Why?")
ids = [panel.controls["ask"].model_id, panel.controls["stop"].model_id, panel.outputs["answer sft"].model_id]
print("button", *ids, flush=True)
"""


def test_stop_is_heard_in_a_real_kernel(client):  # noqa: F811
    """A kernel handles one message after the other; 30 seconds of an answer nobody wants must not be waited for."""
    shell = subshell(client)
    client.execute(SLOW)
    _, start, stop, column = told(client, "button").split()
    click(client, start, shell)
    count, last = 0, ""
    while "tokens/s" not in last:
        message = client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == column:
            count, last = count + 1, message["content"]["data"]["state"]["value"]
            if count == 8:
                click(client, stop, shell)
    assert "stopped by you" in last
    assert count < 300


def test_the_prompt_shown_is_the_one_that_is_sent(shown, tokenizer):
    """Typed, it is what would be sent; sent, it is what was; and a changed system turn is in it at once."""
    sft, dpo = Fake("padded"), Fake("card")
    panel = widgets.chat({"sft": sft, "dpo": dpo}, tokenizer)
    prompt = panel.outputs["prompt"]
    for question in ("one", "two"):
        panel.controls["question"].value = question
        panel.controls["system"].value = f"Be brief. {question}"
        before = prompt.value
        panel.controls["ask"].click()
        assert prompt.value == before
        for who in (sft, dpo):
            assert views.text(templates.render(tokenizer, who.got[-1]["messages"], True)) in before
    assert prompt.value.count("assistant") == 4  # two models, an old answer and the new one's start
    panel.controls["use sft"].value = False
    panel.controls["question"].value = "three"
    assert "padded" not in prompt.value


def test_a_template_that_refuses_is_a_sentence(shown, tokenizer):
    """An exception in an observer is lost."""
    tokenizer.chat_template = "{{ raise_exception('no <b>system</b> turns') }}"
    panel = widgets.chat({"sft": Fake("x")}, tokenizer, question="q")
    assert "no &lt;b&gt;system&lt;/b&gt; turns" in panel.outputs["prompt"].value


def test_hostile_texts_and_names_stay_text(shown, tokenizer):
    """In ipywidgets 7 a description is HTML, and so is the value of an HTML widget everywhere."""
    import ipywidgets

    panel = widgets.chat({EVIL: Fake(EVIL)}, tokenizer, system=EVIL, question=EVIL)
    panel.controls["ask"].click()
    todo, html = [panel.box], []
    while todo:
        part = todo.pop()
        todo += part.children if isinstance(part, ipywidgets.Box) else []
        html += [part.description] if hasattr(part, "description") else []
        html += [part.value] if isinstance(part, ipywidgets.HTML) else []
    html.append(shown[0]["text/html"])
    assert sum(views.text(EVIL) in text for text in html) >= 4
    assert not [text for text in html if "<script" in text or "$x$" in text]


def test_without_a_kernel_there_are_known_answers_or_a_sentence(shown):
    """A committed notebook and print show no widget."""
    widgets.chat({"sft": Fake("x")}, question="Why?", example={"base": "So.", "sft": "Hence."})
    widgets.chat({"sft": Fake("x")})
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} == set(shown[0])
    assert len(shown[0]["image/png"]) < 80_000
    assert "needs a running kernel" in shown[1]["text/html"]
    with pytest.raises(DataProblem, match="no models"):
        widgets.chat({})


def test_only_core_widgets_are_used(shown, tokenizer):
    """ipywidgets 7.7.1 and 8.1, without any extension."""
    import ipywidgets

    found, todo = set(), [widgets.chat({"sft": Fake("x")}, tokenizer).box]
    while todo:
        part = todo.pop()
        found.add(type(part).__name__)
        todo += part.children if isinstance(part, ipywidgets.Box) else []
    boxes, fields = {"VBox", "HBox", "Accordion"}, {"Text", "Textarea", "FloatSlider", "IntSlider", "Checkbox"}
    assert found <= boxes | fields | {"HTML", "Button"}
