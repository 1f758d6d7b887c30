"""Two-turn questions in the file format of MT-Bench (https://arxiv.org/abs/2306.05685), scored for form by rule.

MT-Bench has a strong model grade each answer; no such judge is here, so only form is scored. Lesson: 05_evaluate.
"""

import statistics

from hermes_nb import formats, generate
from hermes_nb.errors import DataProblem
from hermes_nb.evaluate.styles import form_score
from hermes_nb.runtime import find_file


def two_turn_questions(path: str = "two_turn_questions.jsonl") -> list[dict]:
    """Questions of a file in MT-Bench's format: `question_id, category, turns` (two texts).

    Raises DataProblem naming a row that has not exactly two turns, FileProblem when there is no such file.
    """
    rows = list(formats.raw_rows(find_file(path)))
    for number, row in enumerate(rows):
        if len(row["turns"]) != 2:
            raise DataProblem(f"{path}, row {number}: {len(row['turns'])} turns; a two-turn question has 2.")
    return rows


def two_turns(model, tokenizer, questions: list[dict], max_new_tokens: int = 96, how: dict = generate.GREEDY):
    """Answer both turns of each question; the second is asked after the model's own first answer.

    Returns one dict a question: `question_id, category, answers` (two texts), `scores` (two, 0 to 10, form by rule).
    """
    talks, found = [[] for _ in questions], [[] for _ in questions]
    for turn in (0, 1):
        for talk, question in zip(talks, questions, strict=True):
            talk.append({"role": "user", "content": question["turns"][turn]})
        answers = generate.answers(model, tokenizer, talks, max_new_tokens, how)
        for talk, mine, answer in zip(talks, found, answers, strict=True):
            talk.append({"role": "assistant", "content": answer.text})
            mine.append(answer)
    return [
        {
            "question_id": q["question_id"],
            "category": q["category"],
            "answers": [a.text for a in mine],
            "scores": [form_score(a) for a in mine],
        }
        for q, mine in zip(questions, found, strict=True)
    ]


def by_category(results: list[dict]) -> dict[str, float]:
    """Mean score (0 to 10) of each category over its questions and both turns."""
    names = dict.fromkeys(r["category"] for r in results)
    return {n: statistics.fmean(s for r in results if r["category"] == n for s in r["scores"]) for n in names}
