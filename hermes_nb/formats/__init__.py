"""Raw row in, conversational row out, for each known source; sources mixed. Lessons: 00_tour, 01_preference_data."""

from hermes_nb.formats.as_published import VARIANTS, hh_rlhf_as_published
from hermes_nb.formats.chats import (
    message_pairs,
    openhermes,
    sharegpt,
    sharegpt_pairs,
    ultrachat,
    ultrachat_200k,
)
from hermes_nb.formats.detecting import detect
from hermes_nb.formats.dialogues import (
    hermes_preference,
    hh_rlhf,
    plain_pairs,
    plain_text,
    prompt_completion,
    rlhf_reward,
)
from hermes_nb.formats.files import raw_rows
from hermes_nb.formats.loading import Reading, Stream, convert, drawn, excerpt, load, read
from hermes_nb.formats.mixtures import HERMES_PREFERENCE, mixture, read_mixture
from hermes_nb.formats.ratings import (
    orca_dpo_pairs,
    ultrafeedback,
    ultrafeedback_binarized,
    ultrafeedback_binarized_preferences,
)
from hermes_nb.formats.rows import UNUSABLE, Unusable, escaped
from hermes_nb.formats.safety import pku_saferlhf, pku_saferlhf_safe, pku_saferlhf_safer
from hermes_nb.formats.stored import code_key, key_of, made_whole
from hermes_nb.formats.table import READERS, Reader, hub_split, reader
from hermes_nb.formats.unwrap import template_of, unwrap, unwrap_answer

__all__ = [
    "HERMES_PREFERENCE", "READERS", "Reader", "Reading", "Stream", "UNUSABLE", "Unusable", "VARIANTS", "code_key",
    "convert", "detect", "drawn", "escaped", "excerpt", "hermes_preference", "hh_rlhf", "hh_rlhf_as_published",
    "hub_split", "key_of", "load", "made_whole", "message_pairs", "mixture", "openhermes", "orca_dpo_pairs",
    "pku_saferlhf",
    "pku_saferlhf_safe", "pku_saferlhf_safer", "plain_pairs", "plain_text", "prompt_completion", "raw_rows", "read",
    "read_mixture", "reader", "rlhf_reward", "sharegpt", "sharegpt_pairs", "template_of", "ultrachat",
    "ultrachat_200k", "ultrafeedback", "ultrafeedback_binarized", "ultrafeedback_binarized_preferences", "unwrap",
    "unwrap_answer",
]  # fmt: skip
