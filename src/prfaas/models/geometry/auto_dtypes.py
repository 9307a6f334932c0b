"""Which number formats vLLM keeps a model's caches in, when its flags say ``auto`` (vLLM 0.32).

The model's own dtype (`model_dtype`) comes from the config; a float32 checkpoint is served in
bfloat16. Keys and values (`kv_dtype`) have it too, unless the checkpoint was quantized with a KV
cache scheme. The convolution state always has it; the recurrent state (`state_dtype`) where the
model type does not keep it in float32. All of it is of GPUs from Ampere on and of x86 and Arm
CPUs; older GPUs have float16 for bfloat16, and a CPU with AVX512-BF16 keeps states in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prfaas.models.geometry.dtypes import dtype_bytes
from prfaas.models.geometry.fields import Fields

_NO_FLOAT16 = {"gemma2", "gemma3", "gemma3_text", "glm4"}
_KIMI_DELTA = {"kimi_linear", "glm5_next_text"}
_STATE_FLOAT32 = {"nemotron_h", "nemotron_h_puzzle", "cosmos3_edge_text"}
_STATE_NAMED = {
    "nemotron_h": "mamba_ssm_cache_dtype",
    "nemotron_h_puzzle": "mamba_ssm_cache_dtype",
    "cosmos3_edge_text": "mamba_ssm_cache_dtype",
    "qwen3_5_text": "mamba_ssm_dtype",
    "qwen3_5_moe_text": "mamba_ssm_dtype",
}


def model_dtype(config: Mapping[str, Any]) -> str:
    """What vLLM's ``--dtype auto`` serves the model in.

    Raises ConfigError for a dtype that is not known.
    """
    named = next((dtype for block in _blocks(config) if (dtype := _dtype(block))), "float32")
    named = named.removeprefix("torch.")
    dtype_bytes(named)
    if dtype_bytes(named) > 2:
        return "bfloat16"
    if named == "float16" and str(config.get("model_type")) in _NO_FLOAT16:
        return "bfloat16"
    return named


def _blocks(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config, then its text model's block, then its vision model's."""
    names = ("text_config", "llm_config", "thinker_config", "vision_config", "encoder_config")
    inner = [block for name in names if isinstance(block := config.get(name), Mapping)]
    return [config, *inner]


def _dtype(block: Mapping[str, Any]) -> str | None:
    named = block.get("dtype") or block.get("torch_dtype")
    return str(named) if named is not None else None


def state_dtype(fields: Fields) -> str | None:
    """What vLLM's ``--mamba-ssm-cache-dtype auto`` keeps recurrent states in; None: what it keeps
    convolution states in. Raises ConfigError for a dtype that is not known."""
    if fields.model_type in _KIMI_DELTA or "short_conv_kernel_size" in fields:
        return "float32"
    named = _STATE_NAMED.get(fields.model_type)
    dtype = fields.get(named) if named is not None else None
    if dtype is None:
        return "float32" if fields.model_type in _STATE_FLOAT32 else None
    dtype_bytes(str(dtype))
    return str(dtype)


def kv_dtype(config: Mapping[str, Any], model: str, *, latent: bool) -> str:
    """What vLLM's ``--kv-cache-dtype auto`` keeps keys and values in.

    Args:
        latent: whether all of them are latent attention (MLA), which takes no scheme from a
            compressed-tensors checkpoint.
    """
    for block in _blocks(config)[:2]:
        scheme = block.get("quantization_config") or block.get("compression_config")
        if isinstance(scheme, Mapping):
            return _of_checkpoint(scheme, latent) or model
    return model


def _of_checkpoint(scheme: Mapping[str, Any], latent: bool) -> str | None:
    method = str(scheme.get("quant_method", "")).lower()
    producer = scheme.get("producer")
    by_modelopt = isinstance(producer, Mapping) and producer.get("name") == "modelopt"
    if by_modelopt or method.startswith("modelopt"):
        return _of_modelopt(scheme)
    if method.replace("_", "-") == "compressed-tensors" and not latent:
        return "fp8" if scheme.get("kv_cache_scheme") is not None else None
    return None


def _of_modelopt(scheme: Mapping[str, Any]) -> str | None:
    inner = scheme.get("quantization")
    blocks = (inner, scheme) if isinstance(inner, Mapping) else (scheme,)
    names = ("kv_cache_scheme", "kv_cache_quant_algo")
    found = next((block[n] for n in names for block in blocks if block.get(n)), None)
    if isinstance(found, str):
        return {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}.get(found.lower())
    if not isinstance(found, Mapping) or found.get("type") != "float":
        return None
    if found.get("num_bits") == 8 and found.get("dynamic") is False:
        return "fp8"
    return "nvfp4" if found.get("num_bits") == 4 else None
