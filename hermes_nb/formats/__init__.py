"""Raw row in, conversational row out, for each known source. Lessons: 00_tour, 01_preference_data."""

from hermes_nb.formats.loading import convert, detect, load, mixture, raw_rows
from hermes_nb.formats.readers import (
    READERS,
    Reader,
    hh_rlhf,
    hh_rlhf_as_published,
    orca_dpo_pairs,
    pku_saferlhf,
    reader,
    ultrachat_200k,
    ultrafeedback_binarized,
)

__all__ = [
    "READERS", "Reader", "convert", "detect", "hh_rlhf", "hh_rlhf_as_published", "load", "mixture", "orca_dpo_pairs",
    "pku_saferlhf", "raw_rows", "reader", "ultrachat_200k", "ultrafeedback_binarized",
]  # fmt: skip
