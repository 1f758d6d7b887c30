"""The shape of a recipe: frozen dataclasses with strict keys. What may stand in a YAML stands here."""

import dataclasses
from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from hermes_nb.errors import RecipeProblem

# TRL 1.16's losses for DPO
Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
# of transformers' schedules and optimizers, those that the systems here use or might
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
]  # fmt: skip
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "rmsprop", "sgd",
]  # fmt: skip
Onto = Literal["auto", "dequantized", "original"]
SavedDtype = Literal["auto", "bfloat16", "float16", "float32"]
Share = Annotated[float, Field(gt=0, le=1)]
STRICT = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Source:
    """Rows of one source: a file of that schema, or the hub's data set when `path` is empty; all of them, or some.

    At most one of `limit` (a count), `share_of_source` (alignment-handbook's meaning of a weight) and
    `share_of_mixture` (TRL's) says how many; `take` says which: drawn by the seed, or the first. `variant` names the
    published system whose own reader is used, defects and all; `options` are the reader's.
    """

    source: str
    path: str | None = None
    split: str = "train"
    limit: PositiveInt | None = None
    share_of_source: Share | None = None
    share_of_mixture: Share | None = None
    take: Literal["shuffled", "first"] = "shuffled"
    variant: str | None = None
    options: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Model:
    """The base model and its chat template; `revision` pins a hub model to a commit."""

    base: str = "builtin"
    revision: str | None = None
    template: str = "chatml"


@dataclass(frozen=True, config=STRICT)
class Lora:
    """Adapter shape; targets are all linear layers but the head unless named."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"


@dataclass(frozen=True, config=STRICT)
class Stage:
    """What SFT and DPO share. `rows_per_step` is the global batch, whatever parts it is computed in."""

    train: Annotated[tuple[Source, ...], Field(min_length=1)]
    held_out: Annotated[tuple[Source, ...], Field(min_length=1)]
    learning_rate: float = 1e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.1  # share of the steps
    optimizer: Optimizer = "adamw_torch"
    weight_decay: float = 0.0
    rows_per_step: PositiveInt = 16
    rows_per_device: PositiveInt = 4  # rows at once where they are padded; packed ones are cut by tokens
    epochs: float = 1.0
    max_steps: int = -1
    max_length: PositiveInt = 1024
    too_long: Literal["refuse", "cut"] = "refuse"  # cut: let TRL cut rows at max_length, stop token and all
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = True
    checkpoints: int = 2  # states saved during training, the last one at its end
    score_held_out: bool = True  # let the trainer score the held-out rows at its end
    packed: bool = True  # lay the rows of a step one after another, without padding, where the model allows it
    attention: Literal["auto", "gather", "dense", "flex"] = "auto"  # how packed rows are kept apart
    tokens_at_once: NonNegativeInt = 0  # cut a step into parts of so many tokens; 0: planned on the machine

    def rows_each(self, processes: int = 1) -> int:
        """Rows that each process computes of a step. RecipeProblem where the global batch could not be kept."""
        if self.rows_per_step % processes:
            raise RecipeProblem(
                f"rows_per_step {self.rows_per_step} is not a multiple of {processes} processes; choose a divisor, so "
                f"that the global batch stays what the recipe says."
            )
        return self.rows_per_step // processes

    def batch_line(self) -> str:
        """The global batch in words."""
        parts = "laid one after another without padding" if self.packed else f"padded, {self.rows_per_device} at once"
        return f"{self.rows_per_step} rows a step, {parts}"


@dataclass(frozen=True, config=STRICT)
class Sft(Stage):
    """Supervised fine-tuning; `neftune` is the noise of https://arxiv.org/abs/2310.05914 (0: none)."""

    neftune: float = 0.0


@dataclass(frozen=True, config=STRICT)
class Dpo(Stage):
    """Direct preference optimization, https://arxiv.org/abs/2305.18290; `beta` of its Eq. 7."""

    beta: float = 0.1
    loss: tuple[Loss, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] = ()
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # of robust, exo_pair and aot
    reference: Literal["auto", "cached", "on_the_fly"] = "auto"  # auto: cached where pairs are seen more than once
    reference_store: str | None = None  # folder of the stored reference; without it, one in the cache
    looks: NonNegativeInt = 4  # times after the start that held-out pairs are scored for the margin explorer; 0: never
    looked_pairs: PositiveInt = 64  # how many of them, the first ones


@dataclass(frozen=True, config=STRICT)
class Merge:
    """What the adapter is merged onto, and in which number format it is saved."""

    onto: Onto = "auto"  # auto: onto both, each measured against the trained model; the nearer one is kept
    dtype: SavedDtype = "auto"  # auto: fp16 on a GPU, fp32 on a CPU; bf16 rounds a DPO-sized delta away
    max_shard_size: str = "2GB"


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """How many questions are answered, and how."""

    questions: PositiveInt = 60
    samples: PositiveInt = 2  # answers to each question at temperature 1
    greedy_questions: int = 24
    max_new_tokens: PositiveInt = 96
    temperature: float = 1.0
    batch_size: PositiveInt = 60
    plain_questions: int = 0  # questions without a system prompt whose answers must end by themselves


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One run, wholly described; `scale` and `variant` say which of its forms this is."""

    name: str
    title: str
    scale: str
    variant: str
    model: Model
    lora: Lora = Lora()
    sft: Sft | None = None
    dpo: Dpo | None = None
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    seed: int = 0
    needs_gb: float = 4.0
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # a tracker that gets the metrics as well
    overrides: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain data, as it is written to `recipe.yaml`."""
        return dataclasses.asdict(self, dict_factory=lambda pairs: {k: _plain(v) for k, v in pairs})


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
