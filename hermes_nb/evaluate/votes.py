"""A blind A/B vote as plain data: who saw what on which side, and what the votes say. Lesson: 05_evaluate."""

import random

from hermes_nb.errors import DataProblem
from hermes_nb.evaluate.rates import rate
from hermes_nb.evaluate.styles import form_score


def duels(prompts: list[list[dict]], answers: dict) -> list[dict]:
    """Pairs to vote on: `question`, a text under each of the two names of `answers`, and `rule`, who has more form.

    `prompts` are messages, `answers` two names to lists of `Answer`s to them, in the same order (the longer lists are
    cut); `rule` is the name with more points of `form_score`, or `tie`. Raises DataProblem unless there are two names.
    """
    if len(answers) != 2:
        raise DataProblem(f"duels: {len(answers)} models; give the answers of two.")
    (a, ours), (b, theirs) = answers.items()
    out = []
    for prompt, one, other in zip(prompts, ours, theirs, strict=False):
        gap = form_score(one) - form_score(other)
        rule = a if gap > 0 else b if gap < 0 else "tie"
        out.append({"question": prompt[-1]["content"], a: one.text, b: other.text, "rule": rule})
    return out


class Ballot:
    """A blind vote over pairs of answers: two texts, three buttons, and what was voted as plain data.

    `state` is `{"seed", "names", "votes", "undone", "seen_after"}`, each vote `{"pair", "left", "winner", "blind"}`
    with names or `tie`; `undone` are votes taken back, `seen_after` the numbers of votes at which the result was looked
    at: who has seen it votes no longer blind, and taking votes back does not undo that. Which side shows which answer,
    and the order of the pairs, follow from `seed`. Raises DataProblem for pairs without a text.
    """

    def __init__(self, pairs: list[dict], names: tuple[str, str] = ("sft", "dpo"), seed: int = 0):
        for number, pair in enumerate(pairs):
            missing = [k for k in ("question", *names) if k not in pair]
            if missing:
                raise DataProblem(
                    f"vote, pair {number}: {missing[0]!r} is missing; give question, {names[0]}, {names[1]}."
                )
        if not pairs:
            raise DataProblem("vote: no pairs; give at least one.")
        dice = random.Random(seed)
        self.pairs, self.order = pairs, dice.sample(range(len(pairs)), len(pairs))
        self.left = [names[dice.random() < 0.5] for _ in pairs]
        self.state = {"seed": seed, "names": list(names), "votes": [], "undone": [], "seen_after": []}
        self.box = None  # the widget that shows it, where there is one

    def now(self) -> tuple[int, dict] | None:
        """Number and texts (`question, left, right`) of the pair to vote on; None when all are done."""
        if len(self.state["votes"]) >= len(self.pairs):
            return None
        number = self.order[len(self.state["votes"])]
        pair, left = self.pairs[number], self.left[number]
        right = next(n for n in self.state["names"] if n != left)
        return number, {"question": pair["question"], "left": pair[left], "right": pair[right]}

    def cast(self, choice: str) -> None:
        """Record `left`, `right` or `tie` for the pair of now; a vote after the last pair changes nothing."""
        if self.now() is None:
            return
        number, left = self.now()[0], self.left[self.now()[0]]
        right = next(n for n in self.state["names"] if n != left)
        winner = {"left": left, "right": right, "tie": "tie"}[choice]
        blind = not self.state["seen_after"]
        self.state["votes"].append({"pair": number, "left": left, "winner": winner, "blind": blind})

    def undo(self) -> None:
        """Take the last vote back, so that its pair is to be voted on again; it stays in `undone`.

        After the last pair this counts as a look at the result: it was shown there, with the key.
        """
        if self.state["votes"]:
            if self.now() is None:
                self.seen()
            self.state["undone"].append(self.state["votes"].pop())

    def seen(self) -> None:
        """Record that the result was looked at after this number of votes."""
        count = len(self.state["votes"])
        if count not in self.state["seen_after"]:
            self.state["seen_after"].append(count)

    def result(self, votes: list[dict] | None = None) -> dict:
        """`{wins, agrees, ties, voted, blind}` of the votes, or of `votes` given: rates with Wilson's 95 % interval.

        `wins`: the second name wins, among votes that are no ties. `agrees`: the vote is what the pair's `rule` says,
        among votes and rules that are no ties. `blind`: how many of the `voted` were cast before any look at a result.
        """
        votes = self.state["votes"] if votes is None else votes
        decided = [v for v in votes if v["winner"] != "tie"]
        ruled = [(v["winner"], self.pairs[v["pair"]].get("rule", "tie")) for v in decided]
        return {
            "wins": rate(v["winner"] == self.state["names"][1] for v in decided),
            "agrees": rate(mine == rule for mine, rule in ruled if rule != "tie"),
            "ties": len(votes) - len(decided),
            "voted": len(votes),
            "blind": sum(v.get("blind", False) for v in votes),  # a vote that does not say so is not called blind
        }

    def simulated(self, right: float, count: int, seed: int = 1) -> list[dict]:
        """Votes of a made-up voter, who follows the pair's `rule` with probability `right`; for who does not vote."""
        dice, votes = random.Random(seed), []
        for number in (dice.randrange(len(self.pairs)) for _ in range(count)):
            rule = self.pairs[number].get("rule", "tie")
            sure = rule if rule in self.state["names"] else dice.choice(self.state["names"])
            other = next(n for n in self.state["names"] if n != sure)
            winner = sure if dice.random() < right else other
            votes.append({"pair": number, "left": self.left[number], "winner": winner, "blind": True})
        return votes
