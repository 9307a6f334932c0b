"""Prints the architectures of vLLM's registry, draft models with ``draft:`` before the name."""

from __future__ import annotations

import os

os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"

from vllm.model_executor.models import registry

drafts = registry._SPECULATIVE_DECODING_MODELS
for name in sorted(registry._VLLM_MODELS):
    print(f"draft:{name}" if name in drafts else name)
