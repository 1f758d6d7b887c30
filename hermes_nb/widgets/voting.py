"""The blind A/B vote: two answers, three buttons. Lesson: 05_evaluate."""

from hermes_nb import evaluate, plots
from hermes_nb.views import text as _text
from hermes_nb.widgets.showing import png, show_box


def vote(pairs: list[dict], names: tuple[str, str] = ("sft", "dpo"), seed: int = 0):
    """Show a blind A/B vote and return its `evaluate.Ballot`; without a kernel the first pair is there as a picture.

    `pairs` are dicts with `question`, one text under each of `names`, and `rule` (a name or `tie`). Tab reaches the
    buttons and the space bar presses them; the focus stays on the button. Every text is escaped.
    """
    import ipywidgets

    ballot = evaluate.Ballot(pairs, names, seed)
    half = ipywidgets.Layout(width="50%", padding="0 12px 0 0")
    head, left, right = ipywidgets.HTML(), ipywidgets.HTML(layout=half), ipywidgets.HTML(layout=half)
    buttons = {c: ipywidgets.Button(description=c.capitalize(), tooltip=f"vote {c}") for c in ("left", "right", "tie")}

    def show_now():
        head.value, left.value, right.value = _ballot_texts(ballot)
        for button in buttons.values():
            button.disabled = ballot.now() is None

    for choice, button in buttons.items():
        button.on_click(lambda _, choice=choice: (ballot.cast(choice), show_now()))
    show_now()
    ballot.box = ipywidgets.VBox([head, ipywidgets.HBox([left, right]), ipywidgets.HBox(list(buttons.values()))])
    texts = ballot.now()[1]
    first = plots.answers({side: texts[side] for side in ("left", "right")}, texts["question"], 68)
    show_box(ballot.box, f"a blind vote over {len(pairs)} pairs: Left, Right or Tie; nobody has voted yet", png(first))
    return ballot


def _ballot_texts(ballot) -> tuple[str, str, str]:
    """The three HTML texts of a ballot: progress and question, left answer, right answer; all escaped."""
    now = ballot.now()
    if now is None:
        found, name = ballot.result(), ballot.state["names"][1]
        wins, agrees = found["wins"], found["agrees"]
        line = (
            f"done: {name} wins {wins['value']:.0%} of {wins['n']} (95 % interval {wins['low']:.0%} to "
            f"{wins['high']:.0%}), {found['ties']} ties; agrees with the rule in {agrees['value']:.0%} of {agrees['n']}"
        )
        return f"<b>{_text(line)}</b>", "", ""
    head = f"<b>{len(ballot.state['votes']) + 1} of {len(ballot.pairs)}: {_text(now[1]['question'])}</b>"
    return head, *(f"<b>{side.capitalize()}</b><br>{_text(now[1][side] or '(empty)')}" for side in ("left", "right"))
