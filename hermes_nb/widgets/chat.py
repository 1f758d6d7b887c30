"""The chat box: one question, several models side by side, every answer as it grows. Lesson: 05_evaluate."""

import threading
import time

from hermes_nb import plots, views
from hermes_nb.errors import DataProblem
from hermes_nb.widgets import events
from hermes_nb.widgets.showing import Panel, label, png, show_box
from hermes_nb.widgets.talks import Turn, column, conversation, foot, prompts

ONE = threading.Lock()  # one answer at a time: models in these boxes share their weights, and one adapter acts
SETTLE = 0.05  # seconds; five of these pass between Enter and the answer
SAYS = "Type a question and press Enter or Ask. At temperature 0 a model always writes its likeliest token."


def chat(
    speakers: dict, tokenizer=None, system: str = "", question: str = "", example: dict | None = None,
    temperature: float = 0.7, max_new_tokens: int = 128,
) -> Panel:  # fmt: skip
    """Show a box to talk with several models at once, and return its `Panel`; each model sees its own history.

    `speakers`: name to a callable `(messages, temperature, say, stop, max_new_tokens) -> Answer`, as `speaker` makes
    them. `tokenizer` renders the prompt for the reader. `example`, name to text, are known answers to `question`: the
    picture for who has no kernel. Raises DataProblem when nobody speaks.
    """
    if not speakers:
        raise DataProblem("chat: no models; give at least one, name to widgets.speaker(model, tokenizer).")
    box = _Chat(speakers, tokenizer, system, question, temperature, max_new_tokens)
    names = label(", ".join(map(str, speakers)))
    said = f"a chat box for {names}: needs a running kernel"
    if example:
        show_box(box.panel.box, said, png(plots.answers(example, question)))
    else:
        show_box(box.panel.box, said, html=f"<p>A chat box: one question, the answers of {views.text(names)} side by "
                 "side as they are written. It needs a running kernel: run this cell.</p>")  # fmt: skip
    return box.panel


def _apart() -> bool:
    """Whether answers need a thread of their own: a subshell's callback holds back the next click, see `events`."""
    return threading.current_thread() is not threading.main_thread()


class _Chat:
    """Wires the controls to the speakers; whatever they raise is shown in their column."""

    def __init__(self, speakers, tokenizer, system, question, temperature, limit):
        self.speakers, self.tokenizer = speakers, tokenizer
        self.turns, self.sent = {name: [] for name in speakers}, {}
        self.stopped, self.temperature, self.limit = False, temperature, limit
        self.controls = _controls(speakers, system, question, temperature, limit)
        self.outputs = _outputs(speakers)
        self.panel = Panel(_layout(speakers, self.controls, self.outputs, tokenizer), self.controls, self.outputs)
        for name, act in (("ask", self.ask), ("stop", self.stop), ("new", self.new)):
            self.controls[name].on_click(lambda _, act=act: act())
        self.controls["question"].on_msg(self._key)
        for name in ("question", "system", *(f"use {n}" for n in speakers)):
            self.controls[name].observe(lambda _: self._show_prompt(), "value")
        self._show_prompt()

    def ask(self, waits: int = 0):
        """Put the question to every ticked model, one after the other; here, or in a thread of its own: `_apart`."""
        if _apart():
            threading.Thread(target=self._ask, args=(waits,), name="chat", daemon=True).start()
        else:
            self._ask(waits)

    def _ask(self, waits: int) -> None:
        for _ in range(waits):
            time.sleep(SETTLE)
            events.let_in(*self.controls.values())
        question, names = self.controls["question"].value.strip(), self._ticked()
        if not question or not names:
            self._note("Tick the models that shall answer." if question else "Type a question first.")
        elif not ONE.acquire(blocking=False):
            self._note("An answer is being written; wait for it, or press Stop in its box.")
        else:
            try:
                self._begin(question, names)
                for name in names:
                    self._answer(name)
                self._note("")
            finally:
                self._enable(True)
                ONE.release()

    def stop(self):
        """End the answer that is being written, and ask no further model."""
        self.stopped = True

    def new(self):
        """Forget all turns; the first question is put back, to be asked in another way."""
        if not ONE.acquire(blocking=False):  # an answer is about to be written into these turns
            return
        try:
            self._forget()
        finally:
            ONE.release()

    def _forget(self) -> None:
        asked = [turns[0].question for turns in self.turns.values() if turns]
        self.turns, self.sent = {name: [] for name in self.speakers}, {}
        for name in self.speakers:
            self._show(name)
        self.controls["question"].value = self.controls["question"].value or (asked or [""])[0]
        self._note(SAYS)
        self._show_prompt()

    def _ticked(self) -> list[str]:
        return [name for name in self.speakers if self.controls[f"use {name}"].value]

    def _to_send(self, question: str, names: list[str]) -> dict:
        system = self.controls["system"].value
        return {name: conversation(system, self.turns[name], question) for name in names}

    def _begin(self, question: str, names: list[str]) -> None:
        self.stopped = False  # what holds for this question is read once, so that all models get the same
        self.temperature, self.limit = self.controls["temperature"].value, self.controls["limit"].value
        self.sent = self._to_send(question, names)
        self._enable(False)
        self._note("")
        for name in names:
            self.turns[name].append(Turn(question))
            self._show(name)
        self.controls["question"].value = ""
        self._show_prompt()

    def _answer(self, name: str) -> None:
        turn, begun = self.turns[name][-1], time.perf_counter()

        def say(text):
            turn.text, turn.foot = text, "is writing"
            self._show(name)

        try:
            if self._asked_to_stop():
                turn.foot = "was not asked: stopped"
            else:
                turn.foot = "reads the question"
                self._show(name)
                found = self.speakers[name](
                    self.sent[name], temperature=self.temperature, say=say, stop=self._asked_to_stop,
                    max_new_tokens=self.limit,
                )  # fmt: skip
                turn.text, turn.kept = found.text, bool(found.text)
                turn.foot = foot(found, time.perf_counter() - begun, self.stopped)
        except KeyboardInterrupt:  # the kernel's own stop button
            self.stopped, turn.foot = True, "was interrupted"
        except Exception as error:  # a speaker is anybody's code; the others still answer
            turn.foot = f"broke off: {type(error).__name__}: {label(error, 300)}"
        self._show(name)

    def _asked_to_stop(self) -> bool:
        events.let_in(*self.controls.values())  # else a click on Stop would wait for the last token
        return self.stopped

    def _key(self, widget, content, buffers) -> None:
        """Enter; the page may still hold back the last letters, while an earlier change is on its way."""
        if content.get("event") == "submit":
            self.ask(waits=5)

    def _enable(self, ready: bool) -> None:
        for name in ("ask", "new"):
            self.controls[name].disabled = not ready
        self.controls["stop"].disabled = ready

    def _note(self, sentence: str) -> None:
        self.outputs["note"].value = views.text(sentence)

    def _show(self, name: str) -> None:
        self.outputs[f"answer {name}"].value = column(self.turns[name])

    def _show_prompt(self) -> None:
        """What would be sent now; with no question typed, what was sent last."""
        if self.tokenizer is None:
            return
        question = self.controls["question"].value.strip()
        sent = self._to_send(question, self._ticked()) if question else self.sent
        try:
            self.outputs["prompt"].value = prompts(self.tokenizer, sent) or "Type a question, and tick a model."
        except Exception as error:  # templates raise what they like, for example about a role that they do not know
            self.outputs["prompt"].value = views.text(f"no prompt: {type(error).__name__}: {label(error, 300)}")


def _controls(speakers, system: str, question: str, temperature: float, limit: int) -> dict:
    import ipywidgets as w

    wide, whole = w.Layout(width="98%"), {"description_width": "initial"}
    buttons = {"ask": "Ask", "stop": "Stop", "new": "New conversation"}
    return {
        "question": w.Text(question, description="Question", layout=wide),
        "system": w.Textarea(system, description="System", rows=2, layout=wide),
        "temperature": w.FloatSlider(
            temperature, min=0, max=max(1.5, temperature), step=0.1, description="temperature", style=whole
        ),
        "limit": w.IntSlider(
            limit, min=min(16, limit), max=max(512, limit), step=16, description="max tokens", style=whole
        ),
        **{name: w.Button(description=said, disabled=name == "stop") for name, said in buttons.items()},
        **{
            f"use {n}": w.Checkbox(True, description="answers", indent=False, layout=w.Layout(width="auto"))
            for n in speakers
        },
    }


def _outputs(speakers) -> dict:
    import ipywidgets as w

    return {"note": w.HTML(views.text(SAYS)), "prompt": w.HTML(), **{f"answer {n}": w.HTML() for n in speakers}}


def _layout(speakers, controls: dict, outputs: dict, tokenizer):
    import ipywidgets as w

    def row(*parts):
        return w.HBox(parts, layout=w.Layout(flex_flow="row wrap"))

    columns = [
        w.VBox(
            [row(w.HTML(f"<b>{views.text(label(n))}</b>"), controls[f"use {n}"]), outputs[f"answer {n}"]],
            layout=w.Layout(flex="1 1 210px", min_width="0", padding="0 12px 0 0"),
        )
        for n in speakers
    ]  # fmt: skip
    buttons = row(*(controls[name] for name in ("ask", "stop", "new")))
    how = row(controls["temperature"], controls["limit"])
    parts = [controls["system"], how, controls["question"], buttons, outputs["note"], row(*columns)]
    if tokenizer is not None:
        fold = w.Accordion([outputs["prompt"]], selected_index=None)
        fold.set_title(0, "The prompt as the model gets it")
        parts.append(fold)
    return w.VBox(parts)
