"""Write `raw/`, our own texts in every raw schema that the package reads: `python data_samples/raw.py`.

Everything is a function of the source texts (`raw_texts.py`) and of the lists below; a test holds the shipped files
against it. Only `sharegpt_pairs.parquet` needs more than the standard library, pyarrow.
"""

import csv
import io
import json

from raw_texts import (
    HARMS,
    HERE,
    cut,
    digest,
    human,
    marks_are_turns,
    named,
    rendered,
    said,
    shared,
    sides,
    some,
    talks,
    texts,
)

OUT = HERE / "raw"
WRITER = "written by hand"
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
# answer -> its ratings in the four aspects (1 to 5), and its overall score (1 to 10)
GRADES = {
    "good": ((5, 5, 4, 5), 8.5), "fair": ((4, 5, 4, 4), 7.5),
    "poor": ((2, 3, 2, 4), 4.0), "wrong": ((1, 2, 2, 1), 2.0),
}  # fmt: skip
WHY = (
    "N/A",
    "Does nothing that was asked.",
    "Does little of it.",
    "Does half of it.",
    "Does most of it.",
    "Does it all.",
)
# rows 5, 10, ... 50 of ultrafeedback.jsonl: all rated alike; only one answer rated; a poor answer's 1 written as 10
PLANTED = {5 * (i + 1): fault for i, fault in enumerate(["equal", "unrated", "ten"] * 3 + ["ten"])}
REWORDED = ("Say this in one sentence.", "Sum this up for somebody in a hurry.", "What does this note come down to?")
# category of a safety row -> what an unsafe answer there does, and how severe that is
HARM_OF = {
    "work": ("White-Collar Crime", 1), "school": ("Copyright Issues", 1), "honesty": ("Mental Manipulation", 1),
    "privacy": ("Privacy Violation", 1), "home": ("Physical Harm", 1), "animals": ("Animal Abuse", 2),
    "health": ("Physical Harm", 2), "traffic": ("Disrupting Public Order", 2),
}  # fmt: skip


def conversations(src: dict) -> dict[str, list[dict]]:
    """Files of conversations that are lists."""
    ultrachat = [[m["content"] for m in one] for one in talks(src, 40, 20, 0, system=False)]
    handbook = [(one[0]["content"], one) for one in talks(src, 30, 20, 20, system=False)]
    sharegpt = [shared(one) for one in talks(src, 30, 20, 40)]
    for number in (11, 23, 35):  # an empty system turn, as some exports have
        sharegpt[number] = [{"from": "system", "value": ""}, *(m for m in sharegpt[number] if m["from"] != "system")]
    return {
        "ultrachat.jsonl": named("id data", ((str(n), one) for n, one in enumerate(ultrachat))),
        "ultrachat_200k.jsonl": named("prompt prompt_id messages", ((p, digest(p), one) for p, one in handbook)),
        "sharegpt.jsonl": named(
            "id source conversations", ((f"talk-{n:02d}", WRITER, one) for n, one in enumerate(sharegpt))
        ),
        "message_lists.jsonl": [{"messages": one} for one in talks(src, 24, 16, 75)],
    }


def instructions(src: dict) -> dict[str, list[dict]]:
    """Files of conversations that are texts; `plain_text` has ChatML, Zephyr's and Alpaca's marks in turn."""
    asked = [(item["turns"][0], "", item["good"]) for item in some(src, 16, 32, 60, True)]
    asked += [(REWORDED[n % 3], item["fair"], item["short"]) for n, item in enumerate(some(src, 0, 12, 110))]
    thirds = (("chatml", talks(src, 10, 10, 150)), ("zephyr", talks(src, 10, 10, 170)),
              ("alpaca", talks(src, 10, 10, 190, True)))  # fmt: skip
    told = [(item["turns"][0], item["fair"]) for item in some(src, 15, 30, 95, True)]
    return {
        "openhermes.jsonl": named("instruction input output", sorted(asked, key=lambda row: digest(row[2]))),
        "plain_text.jsonl": [{"text": rendered(one[n], name)} for n in range(20) for name, one in thirds],
        "prompt_completion.jsonl": named("prompt completion", told),
    }


def pairs(src: dict) -> dict[str, list[dict]]:
    """Files of pairs without ratings."""
    orca = [(i["system"], i["turns"][0], *sides(i, n)) for n, i in enumerate(some(src, 10, 42, 0, True))]
    lists = [(said(i), *([said(i, side)[-1]] for side in sides(i, n))) for n, i in enumerate(some(src, 25, 25, 55))]
    whole = [[said(i, side) for side in sides(i, n)] for n, i in enumerate(some(src, 25, 20, 85))]
    plain = [(i, *sides(i, n)) for n, i in enumerate(some(src, 20, 35, 120, True))]
    chatml = [
        (rendered(said(i), "chatml") + "<|im_start|>assistant\n", *(f"{side}<|im_end|>\n" for side in both))
        for i, *both in plain
    ]
    share = [
        (shared(said(i)), *(shared(said(i, side))[-1] for side in sides(i, n)))
        for n, i in enumerate(some(src, 30, 30, 10))
    ]
    files = {
        "orca_dpo_pairs_2023.jsonl": named("system question chatgpt llama2-13b-chat", orca),
        "sharegpt_pairs.jsonl": named("conversations chosen rejected", share),
        "message_pairs.jsonl": named("prompt chosen rejected", lists),
        "message_pairs_implicit.jsonl": named("chosen rejected", whole),
        "plain_pairs.jsonl": named("prompt chosen rejected", ((i["turns"][0], *both) for i, *both in plain)),
        "chatml_dpo_pairs.jsonl": named("prompt chosen rejected", chatml),
    }
    return files | {
        "plain_pairs.csv": files["plain_pairs.jsonl"],
        "sharegpt_pairs.parquet": files["sharegpt_pairs.jsonl"],
    }


def dialogues(src: dict) -> dict[str, list[dict]]:
    """Files of pairs with Human and Assistant turns; `hermes_preference` is what the published script makes of them."""
    numbered = list(enumerate(some(src, 60, 0, 0)))
    numbered += [(n + 1, i) for n, i in numbered if len(i["turns"]) > 1][:4]  # repeated prompts, with other answers
    hh = [(human(i) + "\n\nAssistant: ", sides(i, n)) for n, i in numbered]
    reward = [(human(i) + "\n\n", sides(i, n)) for n, i in enumerate(some(src, 40, 10, 30))]
    # the script takes every "Assistant: " for a turn, so dialogues that speak of one stay out of its mixture
    clear = [[(p, both) for p, both in rows if marks_are_turns(p, both)] for rows in (hh[:60], reward)]
    mixed = [("ultrafeedback", i["turns"][0], i["good"], i["fair"]) for i in some(src, 10, 12, 140, True)]
    mixed += [("hh-rlhf", cut(p + both[0]), *both) for p, both in clear[0][:20]]
    mixed += [("rlhf-reward", p, *both) for p, both in clear[1][:18]]
    return {
        "hh_rlhf.jsonl": src["hh_rlhf"] + named("chosen rejected", ((p + a, p + b) for p, (a, b) in hh)),
        "rlhf_reward.jsonl": named(
            "prompt chosen rejected", ((p, f"Assistant: {a}", f"Assistant: {b}") for p, (a, b) in reward)
        ),
        "hermes_preference.json": named("source prompt chosen rejected", mixed),
    }


def completion(name: str, response: str, like: str, fault: str = "") -> dict:
    """One answer of UltraFeedback, rated as the answer `like`; `name` says who wrote it."""
    ratings, overall = GRADES[like]
    if fault == "ten":
        ratings, overall = (1, 1, 1, 1), 10.0
    known = fault != "unrated"
    notes = {}
    for aspect, rating in zip(ASPECTS, ratings, strict=True):
        why = WHY[rating if known else 0]
        notes[aspect] = {"Rating": str(rating) if known else "N/A", "Rationale": why}
        if aspect in ("helpfulness", "truthfulness"):
            notes[aspect] |= {"Type": ["None"], "Rationale For Rating": why}
    scores = (sum(ratings) / 4, overall) if known else (None, None)
    return {
        "model": name, "principle": "helpfulness", "custom_system_prompt": "Answer briefly and kindly.",
        "annotations": notes, "fine-grained_score": scores[0], "overall_score": scores[1],
        "critique": WHY[ratings[0] if known else 0], "response": response,
    }  # fmt: skip


def ultrafeedback(src: dict) -> list[dict]:
    """Rows of openbmb/UltraFeedback with the faults of PLANTED; which answer comes first changes from row to row."""
    rows = []
    for number, item in enumerate(some(src, 24, 36, 0, True)):
        fault, order = PLANTED.get(number, ""), [list(GRADES)[(number + i) % 4] for i in range(4)]
        like = {name: "fair" if fault == "equal" else name for name in order}
        hit = {"ten": ("poor",), "unrated": ("fair", "poor", "wrong")}.get(fault, ())
        models = [f"writer-{name}" for name in order]
        answers = [
            completion(model, item[name], like[name], fault if name in hit else "")
            for model, name in zip(models, order, strict=True)
        ]
        rows.append((WRITER, item["turns"][0], models, answers, ["None"], ["None"]))
    return named("source instruction models completions correct_answers incorrect_answers", rows)


def rated(src: dict) -> dict[str, list[dict]]:
    """UltraFeedback's three forms; rows 20, 30 and 40 of the binarized one have equal scores."""
    binarized, means = list(src["ultrafeedback_binarized"]), []
    for item in some(src, 16, 30, 80, True):
        number, prompt = len(binarized), item["turns"][0]
        better, worse = (("good", "wrong"), ("fair", "poor"), ("good", "fair"))[number % 3]
        chosen, rejected = (said(item | {"system": ""}, item[name]) for name in (better, worse))
        scores = [GRADES[name][1] for name in (better, better if number in (20, 30, 40) else worse)]
        binarized += named(
            "prompt prompt_id chosen rejected messages score_chosen score_rejected",
            [(prompt, digest(prompt), chosen, rejected, chosen, *scores)],
        )
    for number, item in enumerate(some(src, 20, 28, 140, True)):
        names = (("good", "fair"), ("fair", "poor"), ("good", "poor"))[number % 3]
        mean = [sum(GRADES[name][0]) / 4 for name in names]
        means.append((WRITER, item["turns"][0], *(item[name] for name in names), *mean, f"writer-{names[0]}"))
    columns = "source instruction chosen_response rejected_response chosen_avg_rating rejected_avg_rating chosen_model"
    return {
        "ultrafeedback.jsonl": ultrafeedback(src),
        "ultrafeedback_binarized.jsonl": binarized,
        "ultrafeedback_binarized_preferences.jsonl": named(columns, means),
    }


def judged(row: dict, at: int) -> dict:
    """What today's PKU-SafeRLHF says of one answer: nothing of a safe one; of two unsafe ones, the worse is severer."""
    harm, severity = HARM_OF[row["category"]]
    safe, other = row[f"is_response_{at}_safe"], row[f"is_response_{1 - at}_safe"]
    level = 0 if safe else severity + (not other and row["safer_response_id"] != at)
    return {
        f"response_{at}_source": WRITER,
        f"response_{at}_harm_category": {name: name == harm and not safe for name in HARMS},
        f"response_{at}_severity_level": int(level),
        f"response_{at}_sha256": digest(row[f"response_{at}"]),
    }


def safety(src: dict) -> dict[str, list[dict]]:
    """Both forms of PKU-SafeRLHF; prompts come again with other answers, as they do there."""
    rows = [{name: value for name, value in row.items() if name not in ("id", "category")} for row in src["safety"]]
    today = [row | {"prompt_source": WRITER} | judged(of, 0) | judged(of, 1)
             for row, of in zip(rows, src["safety"], strict=True)]  # fmt: skip
    return {"pku_saferlhf_v0.jsonl": src["pku_saferlhf"] + rows[14:], "pku_saferlhf.jsonl": today}


def build() -> dict[str, list[dict]]:
    """File name to rows."""
    src = texts()
    rooms = (conversations, instructions, pairs, dialogues, rated, safety)
    return {name: rows for room in rooms for name, rows in room(src).items()}


def content(name: str, rows: list[dict]) -> bytes:
    """A file's bytes, by its ending. Those of parquet name pyarrow's version."""
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, compression="none", store_schema=False)
        return sink.getvalue().to_pybytes()
    if name.endswith(".csv"):
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return table.getvalue().encode()
    if name.endswith(".json"):
        return json.dumps(rows, indent=4).encode()  # as the script of Hermes-7b writes it
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, rows in build().items():
        try:
            (OUT / name).write_bytes(content(name, rows))
            print(f"raw/{name}: {len(rows)} rows")
        except ModuleNotFoundError as error:
            print(f"raw/{name}: left as it is, {error.name} is missing here (PYTHON=.venv/bin/python has it)")
