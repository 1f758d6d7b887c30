"""What was measured, in a card's words: each figure with its n, and what was not measured is said. Lesson: 04_merge."""

from hermes_nb import evaluate
from hermes_nb.publish.markdown import plain, table

RATES = {"stops": "Greedy answers that end by themselves", "accuracy": "Accuracy on held-out pairs"}


def measured(recipe: dict, run: dict, stages: dict, adapter: bool) -> list[str]:
    """The lines of the section `Measured`: merge, answers, machine. `stages` maps a stage to its metrics."""
    lines = ["## Measured\n"]
    if not adapter:
        lines += _merge(stages["merge"]) if stages.get("merge") else ["How faithful the merge is was not measured.\n"]
    if "evaluate" in stages:
        how = recipe["evaluate"]
        note = (
            f"Answers to {how['questions']} held-out questions, {how['samples']} each at temperature "
            f"{how['temperature']:g}, at most {how['max_new_tokens']} tokens; 95 % intervals."
        )
        lines.append(
            evaluate.markdown({"metrics": {plain(k): v for k, v in stages["evaluate"].items()}, "note": note}) + "\n"
        )
    else:
        lines.append("Sampled answers (styles, stop rate) were not measured in this run.\n")
    versions = ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items()) or "versions not recorded"
    machine = ", ".join(str(run.get(k) or f"{k} not recorded") for k in ("chip", "dtype"))
    return [*lines, f"Machine: {plain(machine)}. {plain(versions)}\n"]


def counted(stages: dict, adapter: bool) -> str:
    """On how many answers or tokens the figures rest, in words."""
    if "evaluate" in stages:
        return f"{max(m['sampled']['card']['n'] for m in stages['evaluate'].values()):d} answers"
    return f"{stages['merge']['tokens']:d} tokens" if stages.get("merge") and not adapter else ""


def _merge(m: dict) -> list[str]:
    """The merged model beside the trained one: distance, behaviour, the other ways to merge that were tried."""
    onto = f"onto the {plain(m['onto'])} base, " if "onto" in m else ""
    without = f" ({m['kl_without_adapter']:.1e} without the adapter)" if "kl_without_adapter" in m else ""
    lines = [
        f"Merged ({onto}{plain(m['dtype'])}) against base and adapter in 4 bits, n = {m['tokens']:d} held-out tokens: "
        f"KL {m['kl']:.1e} nats a token{without}, likeliest token the same in {m['top1']:.1%}.\n"
    ]
    if m.get("reason"):
        lines.append(f"Why this one: {plain(m['reason'])}\n")
    lines += [
        f"{words}: {_rate(m[key])} merged{_trained(m, key)}.\n"
        for key, words in RATES.items()
        if isinstance(m.get(key), dict)
    ]
    if m.get("candidates"):
        lines += ["Ways to merge that were tried:\n", table([_candidate(*c) for c in m["candidates"].items()])]
    if m.get("survival"):
        kept = ", ".join(f"{plain(k)} {v['median']:.3f} (lowest {v['low']:.3f})" for k, v in m["survival"].items())
        lines.append(f"Cosine of the change before and after rounding, median over the layers: {kept}.\n")
    return lines


def _trained(m: dict, key: str) -> str:
    before = (m.get("trained") or {}).get(key)
    return f"; {_rate(before)} as trained" if isinstance(before, dict) else ""


def _rate(rate: dict) -> str:
    return f"{rate['value']:.0%} ({rate['low']:.0%} to {rate['high']:.0%}, 95 % interval), n = {rate['n']:d}"


def _candidate(name: str, one: dict) -> dict:
    """A candidate's row; a figure that was not taken is said to be missing."""

    def share(key: str) -> str:
        return f"{one[key]['value']:.0%}" if isinstance(one.get(key), dict) else "not measured"

    def number(key: str, form: str) -> str:
        return form.format(one[key]) if one.get(key) is not None else "not measured"

    return {
        "merged": plain(name), "KL, nats a token": number("kl", "{:.1e}"), "same top token": number("top1", "{:.1%}"),
        "ends by itself": share("stops"), "accuracy": share("accuracy"), "MB": number("mb", "{:.0f}"),
    }  # fmt: skip
