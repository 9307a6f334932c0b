"""``python -m prfaas.tiny_models.prepare``: what a first start of engines would do, done once.

Makes the default model, and has vLLM look at its architecture. vLLM remembers what it found in its
cache; without that each engine looks in one more process, which imports torch and vLLM once more.
"""

from __future__ import annotations

from vllm.config import ModelConfig

from prfaas.tiny_models.cache import ensure

if __name__ == "__main__":
    ModelConfig(model=str(ensure("gdn")))
