"""Number formats by name, as vLLM's flags and model configs spell them."""

from __future__ import annotations

from prfaas.core.errors import ConfigError

_BYTES = {
    "float32": 4.0, "fp32": 4.0, "float": 4.0,
    "bfloat16": 2.0, "bf16": 2.0, "float16": 2.0, "fp16": 2.0, "half": 2.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "fp8_inc": 1.0, "int8": 1.0,
    "fp4": 0.5, "int4": 0.5,
    # Two values in a byte and one byte of scale for every 16.
    "nvfp4": 0.5625, "nvfp4_4over6": 0.5625,
}  # fmt: skip


def dtype_bytes(name: str) -> float:
    """Bytes of one element. Raises ConfigError for an unknown dtype."""
    if name not in _BYTES:
        raise ConfigError(f"unknown dtype {name!r}; use one of {', '.join(_BYTES)}")
    return _BYTES[name]


def is_fp8(name: str) -> bool:
    """Whether keys and values in ``name`` are stored as 8-bit floats."""
    return name.startswith("fp8")
