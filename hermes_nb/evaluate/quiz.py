"""Facts: does a model find the right one of four answers likeliest? Lesson: 05_evaluate."""

from hermes_nb import formats, reference, templates
from hermes_nb.errors import DataProblem
from hermes_nb.evaluate.rates import rate
from hermes_nb.runtime import find_file


def fact_rows(path: str = "facts.jsonl") -> list[dict]:
    """Multiple-choice questions of a file: `question, choices` (texts), `answer` (index of the right one), `topic`.

    Raises DataProblem naming the row whose answer is no index of its choices, FileProblem when there is no such file.
    """
    rows = list(formats.raw_rows(find_file(path)))
    for number, row in enumerate(rows):
        if row["answer"] not in range(len(row["choices"])):
            raise DataProblem(f"{path}, row {number}: answer {row['answer']} is no index of its choices; mend the row.")
    return rows


def facts(model, tokenizer, rows: list[dict]) -> dict:
    """Accuracy by log-likelihood on multiple-choice `rows`: `{acc, acc_norm, right}`.

    Each choice is scored as the whole answer to the question, without its stop token. `acc` takes the choice with the
    largest sum of token log-probs (nats), `acc_norm` with the largest sum per character: two columns that published
    tables print side by side, and that may differ. `right` are the flags of `acc_norm`, one a question.
    """
    flat = [_scored(tokenizer, row["question"], choice) for row in rows for choice in row["choices"]]
    sums = iter([logps.sum().item() for logps in reference.token_logps(model, flat)])
    plain, normed = [], []
    for row in rows:
        each = [(next(sums), len(choice)) for choice in row["choices"]]
        plain.append(_best([total for total, _ in each]) == row["answer"])
        normed.append(_best([total / max(1, size) for total, size in each]) == row["answer"])
    return {"acc": rate(plain), "acc_norm": rate(normed), "right": normed}


def _best(scores: list[float]) -> int:
    """Index of the largest score; the first of equals."""
    return max(range(len(scores)), key=scores.__getitem__)


def _scored(tokenizer, question: str, choice: str) -> tuple[list[int], int]:
    """Ids of question and choice without the last stop token, and where the choice begins."""
    prompt = [{"role": "user", "content": question}]
    start = templates.prompt_ids(tokenizer, prompt)
    whole, _ = templates.conversation_ids(tokenizer, [*prompt, {"role": "assistant", "content": choice}])
    stop = len(whole) - 1 - whole[::-1].index(tokenizer.eos_token_id)
    return whole[:stop], len(start)
