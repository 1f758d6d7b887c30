"""Figures, each a pure function that returns a `matplotlib.figure.Figure`; one file a subject. Lessons: all."""

from hermes_nb.plots.base import CHOSEN, GREY, KINDS, MARGIN, NEUTRAL, REJECTED, WIDTH, figure, legend
from hermes_nb.plots.data import (
    characters,
    length_bias,
    lost_stops,
    pickers,
    reasons,
    safety,
    weight_meanings,
)
from hermes_nb.plots.earned import heat_pair
from hermes_nb.plots.evidence import answers, behaviour, sizes
from hermes_nb.plots.explorer import margin_over_steps, margins_at
from hermes_nb.plots.judging import (
    calibration,
    form_radar,
    kinds_and_baselines,
    paired_table,
    shares,
    stops_and_lengths,
    temperatures,
    votes_needed,
)
from hermes_nb.plots.lengths import lengths, word_rule
from hermes_nb.plots.live import Board, curves
from hermes_nb.plots.losses import loss_at, loss_curves, loss_facts, loss_slope
from hermes_nb.plots.merged import candidates, memory_curve, two_distances
from hermes_nb.plots.merging import sum_by_hand, survival, survival_by_layer, two_bases
from hermes_nb.plots.overview import road, story
from hermes_nb.plots.packed import engines, packed_rows
from hermes_nb.plots.preference import (
    betas,
    by_kind,
    failures,
    margin_steps,
    stop_rates,
    two_references,
)
from hermes_nb.plots.quantize import (
    bits_by_block,
    error_map,
    held_out_loss,
    lora_scale,
    loss_runs,
    memory_ledger,
    mixture,
    moved_shares,
    nf4_block,
)
from hermes_nb.plots.tokenized import tokens

__all__ = [
    "answers", "behaviour", "betas", "bits_by_block", "Board", "by_kind", "calibration", "candidates", "characters",
    "CHOSEN", "curves", "engines", "error_map", "failures", "figure", "form_radar", "GREY",
    "heat_pair", "held_out_loss", "KINDS", "kinds_and_baselines", "legend", "length_bias", "lengths", "lora_scale",
    "loss_at", "loss_curves", "loss_facts", "loss_runs", "loss_slope", "lost_stops", "MARGIN",
    "margin_over_steps", "margin_steps", "margins_at", "memory_ledger", "memory_curve", "mixture",
    "moved_shares", "NEUTRAL", "nf4_block", "packed_rows", "paired_table", "pickers", "reasons", "REJECTED", "road",
    "safety", "shares", "sizes", "stop_rates", "stops_and_lengths", "story", "sum_by_hand", "survival",
    "survival_by_layer", "temperatures", "tokens", "two_bases", "two_distances", "two_references", "votes_needed",
    "weight_meanings", "WIDTH", "word_rule",
]  # fmt: skip
