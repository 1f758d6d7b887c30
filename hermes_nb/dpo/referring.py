"""The reference computed once: in packed rows, kept as it is made, found again by later runs."""

import math
import time

from tqdm import tqdm

from hermes_nb import reference, runtime
from hermes_nb.dpo.trainer import REFERENCES, PairTrainer, measured
from hermes_nb.errors import DataProblem
from hermes_nb.training import Engine, cut, is_out_of_memory

FLUSH = 30.0  # seconds after which new values are written


class PairEngine(Engine):
    """The engine of DPO, which may have the reference stored before the first step."""

    def start(self, trainer: PairTrainer) -> None:
        """Set the trainer up; where the recipe says so, with stored reference log-probabilities."""
        super().start(trainer)
        trainer.number_format = runtime.machine().dtype
        if self.stored(len(trainer.train_dataset)):
            self._store(trainer)

    def stored(self, rows: int) -> bool:
        """Whether the reference is computed once for all; `auto`: where pairs are seen more than once."""
        if self.stage.reference != "auto":
            return self.stage.reference == "cached"
        if self.stage.max_steps > 0:
            return self.stage.max_steps > math.ceil(rows / self.stage.rows_per_step)
        return self.stage.epochs > 1

    def _store(self, trainer: PairTrainer) -> None:
        key = reference.key_of(trainer.model, self.told["attention"], trainer.number_format)
        store = reference.Store(key, self.stage.reference_store)
        begun, known = time.perf_counter(), store.load()
        found = len(known)
        for name in ("train_dataset", "eval_dataset"):
            rows = getattr(trainer, name)
            if rows is not None:
                score_missing(trainer, rows, store, known)
                setattr(trainer, name, with_reference(rows, known, trainer.args.max_length))
        trainer.precompute_ref_logps = True
        seconds = round(time.perf_counter() - begun, 1)
        self.told["reference"] = {"computed": len(known) - found, "found": found, "seconds": seconds}
        self.keep(trainer.budget)


def _keys(rows, max_length: int) -> list[str]:
    columns = (rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"])
    return [reference.row_key(p, c, r, max_length) for p, c, r in zip(*columns, strict=True)]


def score_missing(trainer: PairTrainer, rows, store: reference.Store, known: dict) -> None:
    """Compute, in parts of the budget, and keep what `known` lacks of these tokenized rows; `known` is completed.

    Raises DataProblem naming a row whose log-probability is not finite.
    """
    missing = {k: i for i, k in enumerate(_keys(rows, trainer.args.max_length)) if k not in known}
    names, numbers = list(missing), list(missing.values())
    lengths = [size for size, _ in measured(rows.select(numbers), trainer.args.max_length)]
    fresh, done, flushed = {}, 0, time.perf_counter()
    with tqdm(total=len(names), desc="reference", unit="pair", disable=not names, dynamic_ncols=True) as bar:
        while done < len(names):
            part = cut(lengths[done:], trainer.budget.tokens, trainer.rows_at_once)[0]
            pairs = [rows[numbers[done + i]] for i in part]
            sides = _scored(trainer, pairs)
            if sides is None:
                trainer.halve([lengths[done + i] for i in part])
                continue
            fresh |= dict(zip(names[done : done + len(part)], sides, strict=True))
            done += len(part)
            bar.update(len(part))
            if time.perf_counter() - flushed > FLUSH or done == len(names):
                store.add(fresh)
                known |= fresh
                fresh, flushed = {}, time.perf_counter()


def _scored(trainer: PairTrainer, pairs: list[dict]) -> list[tuple[float, float]] | None:
    """Reference log-probabilities (nats) of chosen and rejected of tokenized pairs; None where memory ran out."""
    try:
        batch = trainer.prepared(pairs)
        sides = [side.tolist() for side in trainer.compute_ref_log_probs(trainer.model, batch)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    values = list(zip(*sides, strict=True))
    for i, pair in enumerate(values):
        if not all(map(math.isfinite, pair)):
            row = trainer.row_name(trainer.part(batch, [i]))
            raise DataProblem(f"the reference's log-probability of {row} is not finite; audit the rows.")
    return values


def with_reference(rows, known: dict, max_length: int):
    """The rows with TRL's two columns of reference log-probabilities (nats)."""
    values = [known[k] for k in _keys(rows, max_length)]
    for name, column in zip(REFERENCES, zip(*values, strict=True), strict=True):
        rows = rows.add_column(name, list(column))
    return rows
