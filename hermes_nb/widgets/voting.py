"""The blind A/B vote: two answers, three buttons, one step back. Lesson: 05_evaluate."""

from hermes_nb import evaluate, plots
from hermes_nb.views import CELL
from hermes_nb.views import text as _text
from hermes_nb.widgets.showing import label, png, show_box, table

ENOUGH = 5  # votes; a rate of fewer says nothing, and looking at it ends the blindness
LOOK = f"{CELL};line-height:1.4"
MORE = {"undo": ("Undo", "take the last vote back"), "result": ("Show result now", "from then on you are not blind")}


def vote(pairs: list[dict], names: tuple[str, str] = ("sft", "dpo"), seed: int = 0):
    """Show a blind A/B vote and return its `evaluate.Ballot`; without a kernel the first pair is there as a picture.

    `pairs` are dicts with `question`, one text under each of `names`, and `rule` (a name or `tie`). Tab reaches the
    buttons and the space bar presses them; the focus stays on the button. While votes are cast, only their number is
    shown: a win rate by name would tell which style is whose. Every text is escaped.
    """
    import ipywidgets as w

    ballot = evaluate.Ballot(pairs, names, seed)
    wrap, half = w.Layout(flex_flow="row wrap"), w.Layout(flex="1 1 300px", min_width="0", padding="0 12px 0 0")
    head, left, right, line, reveal = w.HTML(), w.HTML(layout=half), w.HTML(layout=half), w.HTML(), w.HTML()
    buttons = {c: w.Button(description=c.capitalize(), tooltip=f"vote {c}") for c in ("left", "right", "tie")}
    more = {name: w.Button(description=said, tooltip=why) for name, (said, why) in MORE.items()}

    def show_now(seen=False):
        done = ballot.now() is None
        if seen:  # the end shows the result to a voter who has been blind throughout
            ballot.seen()
        head.value, left.value, right.value = _ballot_texts(ballot)
        line.value, reveal.value = _progress(ballot, seen), _reveal(ballot) if done else ""
        for button in buttons.values():
            button.disabled = done
        more["undo"].disabled = not ballot.state["votes"]
        more["result"].disabled = done or len(ballot.state["votes"]) < ENOUGH

    for choice, button in buttons.items():
        button.on_click(lambda _, choice=choice: (ballot.cast(choice), show_now()))
    more["undo"].on_click(lambda _: (ballot.undo(), show_now()))
    more["result"].on_click(lambda _: show_now(seen=True))
    show_now()
    rows = [w.HBox(parts, layout=wrap) for parts in ([left, right], list(buttons.values()), list(more.values()))]
    ballot.box = w.VBox([head, *rows[:2], line, rows[2], reveal])
    _show(ballot)
    return ballot


def _show(ballot) -> None:
    """Show the box of a ballot, and its first pair for who has no kernel."""
    texts = ballot.now()[1]
    first = plots.answers({side: texts[side] for side in ("left", "right")}, texts["question"], 68)
    said = f"a blind vote over {len(ballot.pairs)} pairs: Left, Right or Tie; nobody has voted yet"
    show_box(ballot.box, said, png(first))


def _ballot_texts(ballot) -> tuple[str, str, str]:
    """The three HTML texts of a ballot: progress and question, left answer, right answer; all escaped."""
    now = ballot.now()
    if now is None:
        return f"<div style='{LOOK}'><b>{_text('done: ' + _result(ballot))}</b></div>", "", ""
    head = f"{len(ballot.state['votes']) + 1} of {len(ballot.pairs)}: {now[1]['question']}"
    sides = (
        f"<div style='{LOOK}'><b>{side.capitalize()}</b><br>{_text(now[1][side] or '(empty)')}</div>"
        for side in ("left", "right")
    )
    return f"<div style='{LOOK}'><b>{_text(head)}</b></div>", *sides


def _result(ballot) -> str:
    """What the votes say so far, in words: the second name's win rate, its interval, ties, the rule."""
    found, name = ballot.result(), ballot.state["names"][1]
    wins, agrees, seeing = found["wins"], found["agrees"], found["voted"] - found["blind"]
    after = f"; {found['voted']} votes, of which {seeing} were cast after you had seen a result" * bool(seeing)
    if not wins["n"]:
        return f"{found['ties']} ties and no other vote; these votes prefer neither model{after}"
    said = (
        f"{name} wins {wins['value']:.0%} of {wins['n']} (95 % interval {wins['low']:.0%} to {wins['high']:.0%}), "
        f"{found['ties']} ties"
    )
    said += "; the interval holds 50 %, as a coin would give" * (wins["low"] <= 0.5 <= wins["high"])
    return said + (f"; agrees with the rule in {agrees['value']:.0%} of {agrees['n']}" if agrees["n"] else "") + after


def _progress(ballot, seen: bool) -> str:
    """The line below the buttons as HTML: how many votes, and what is left of the blindness; no name but on demand."""
    state = ballot.state
    said = f"{len(state['votes'])} votes cast" + f", {len(state['undone'])} taken back" * bool(state["undone"])
    if seen:
        said += f"; so far: {_result(ballot)}"
    elif state["seen_after"] and ballot.now() is not None:
        said += f"; you saw the result after {min(state['seen_after'])} votes, and what came later is not blind"
    return f"<div style='{LOOK}'>{_text(said)}</div>"


def _reveal(ballot) -> str:
    """Which model stood where, and the votes, as an HTML table; for the end only."""
    a, b = ballot.state["names"]
    rows = [
        {
            "question": label(ballot.pairs[v["pair"]]["question"]),
            "left": v["left"],
            "right": b if v["left"] == a else a,
            "your vote": v["winner"],
            "rule": ballot.pairs[v["pair"]].get("rule", ""),
        }
        for v in ballot.state["votes"]
    ]
    return table(rows).data
