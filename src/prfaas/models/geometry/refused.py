"""Models that have no KV cache, or one whose size cannot be said: refused by name, with why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prfaas.models.geometry.fields import Fields

_ENCODER = "keeps no KV cache: it is an encoder, whose layers see the whole input at once"
_ENCODER_DECODER = (
    "has an encoder, whose cross-attention cache is as long as the encoder's input: a prompt's "
    "tokens do not say its size"
)
_DRAFT = "is a draft model: its cache lies beside its target's; ask for the target"
_UNMEASURED = "its caches have formats of their own that are not laid out here"

_REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert", "gte", "new", "clip",
            "clip_text_model", "siglip", "siglip_text_model", "openai_privacy_filter",
            "embedding_gemma2", "embedding_gemma2_text", "timm_wrapper", "colbert",
        ),
        _ENCODER,
    ),
    **dict.fromkeys(
        ("whisper", "cohere_asr", "nemotron_parse", "fireredasr2", "voxtral_realtime"),
        _ENCODER_DECODER,
    ),
    **dict.fromkeys(
        ("eagle", "medusa", "mlp_speculator", "speculators", "muse_glimmer_assistant",
         "k3_dspark", "minimax_m3_mtp"),
        _DRAFT,
    ),
    **dict.fromkeys(
        ("deepseek_v41", "dots3_note", "hy_v4", "inkling_model", "inkling_text",
         "qwen4_exp_text"),
        _UNMEASURED,
    ),
    "hrm_text": "its layers run in cycles, each with a cache; the number of cycles is not read",
    "iquestloopcoder": "its layers run in loops, each with a cache; they are not counted here",
    "unlimited-ocr": "its window counts generated tokens only (R-SWA), so it has no fixed size",
    "unlimited_ocr": "its window counts generated tokens only (R-SWA), so it has no fixed size",
}  # fmt: skip


_ENCODER_NAMES = re.compile("Bidirectional|^LlamaNemotronVL")
_DRAFT_NAMES = re.compile(
    "[Ee]agle(?!2_5)|MTP|Medusa|DFlash|DSpark|LiLiCorr|AssistantModel|ExtractHiddenStates"
)


def refusal(config: Mapping[str, Any], fields: Fields) -> str | None:
    """Why the model is refused; None where it is not."""
    for model_type in (config.get("model_type"), fields.model_type):
        if reason := _REFUSED.get(str(model_type)):
            return reason
    given = config.get("architectures")
    names = [str(name) for name in given] if isinstance(given, list) else []
    if any(_DRAFT_NAMES.search(name) for name in names):
        return _DRAFT
    embeds = any(_ENCODER_NAMES.search(name) for name in names)
    both_ways = "Gemma3TextModel" in names and fields.get("use_bidirectional_attention")
    if embeds or both_ways or fields.get("is_causal") is False:
        return _ENCODER
    return None
