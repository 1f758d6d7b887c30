"""Check of the exercise of notebook 04: base and number format for three given runs. Lesson: 04_merge."""

from hermes_nb.exercises.common import solved, unsolved

RUNS = [
    {"run": "A", "model": "135M", "trained on": "its NF4 form", "delta / weights": 0.001, "must run on": "cpu, 8 GB",
     "file in 32 bits": "0.5 GB", "read by": "anything"},
    {"run": "B", "model": "7B", "trained on": "its NF4 form", "delta / weights": 0.001, "must run on": "cuda, 24 GB",
     "file in 32 bits": "29 GB", "read by": "anything"},
    {"run": "C", "model": "7B", "trained on": "its 16-bit form", "delta / weights": 0.03, "must run on": "cuda, 24 GB",
     "file in 32 bits": "29 GB", "read by": "a server that knows bf16 only"},
]  # fmt: skip
RIGHT = {"A": ("dequantized", "float32"), "B": ("dequantized", "float16"), "C": ("original", "bfloat16")}
ONTO = {
    "A": "its adapter was trained on the weights that NF4 gave back, and corrects those; on the original it is another "
    "model",
    "B": "its adapter was trained on the weights that NF4 gave back; on the original it is another model",
    "C": "this adapter never saw an NF4 weight; the dequantized base would add an error of about 9 % of the weights",
}
DTYPE = {
    ("A", "bfloat16"): "at a delta of 1/1,000 bf16 keeps about 64 % of its direction",
    ("A", "float16"): "fp16 would keep the delta, but a CPU computes it slowly, and 0.5 GB in fp32 fits easily",
    ("B", "bfloat16"): "at a delta of 1/1,000 bf16 keeps about 64 % of its direction; another format of the same size "
    "keeps 98 %",
    ("B", "float32"): "29 GB do not fit into 24 GB; a format of 16 bits takes 14.5",
    ("C", "float16"): "the server reads bf16 only; and at a delta of 3/100 bf16 keeps 99.8 % of its direction",
    ("C", "float32"): "29 GB do not fit into 24 GB, and the server reads bf16 only",
}
HINT = "merge onto the weights that the adapter was trained on; then take a format that fits and keeps the delta."


def pick(picks: dict) -> bool:
    """Check `picks`: run name to (onto, dtype), with onto `dequantized` or `original`, dtype as in a recipe.

    A: 135M x 4 bytes = 0.54 GB fits in 8 GB, and a CPU computes fp16 slowly: fp32. B: 7.24 G x 4 = 29 GB > 24 GB, so 16
    bits; at 1e-3 the ladder gives 0.98 for fp16 and 0.64 for bf16: fp16. C: trained on 16 bits, so nothing to
    dequantize; at 3e-2 bf16 keeps 0.998, and nothing else can be read.
    """
    if not isinstance(picks, dict) or set(picks) != set(RIGHT):
        print(f"give one pick each for the runs {', '.join(RIGHT)}: picks['A'] = (onto, dtype).")
        return False
    flat = [part for two in picks.values() for part in (two if isinstance(two, tuple) else (two,))]
    if all(part is None or part is ... for part in flat):
        return unsolved(HINT)
    wrong = [line for run, two in picks.items() if (line := _wrong(run, two))]
    if wrong:
        print(f"{len(RIGHT) - len(wrong)} of {len(RIGHT)} runs are right. First that is not: {wrong[0]}.")
        return False
    return solved("all 3 runs, each with the base it was trained on and a format that fits and keeps the delta")


def _wrong(run: str, two) -> str | None:
    """What is wrong with one pick, and why; None when it is right."""
    if not isinstance(two, (tuple, list)) or len(two) != 2:
        return f"run {run}: {two!r} is no pair (onto, dtype)"
    onto, dtype = two
    if onto not in ("dequantized", "original"):
        return f"run {run}: onto is 'dequantized' or 'original', not {onto!r}"
    if dtype not in ("float32", "float16", "bfloat16"):
        return f"run {run}: dtype is 'float32', 'float16' or 'bfloat16', not {dtype!r}"
    if onto != RIGHT[run][0]:
        return f"run {run}, onto {onto}: {ONTO[run]}"
    return None if dtype == RIGHT[run][1] else f"run {run}, {dtype}: {DTYPE[run, dtype]}"
