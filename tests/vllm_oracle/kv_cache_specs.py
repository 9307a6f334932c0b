"""Asks vLLM what KV cache it would allocate: one JSON line per case, read and written by pipe.

    python tests/vllm_oracle/kv_cache_specs.py < cases.jsonl > specs.jsonl

Every model is built on the meta device, without weights and without running anything, and its
layers are asked for their ``KVCacheSpec``. Run it alone in a process: it stands in for what a
machine lacks (vision and audio libraries, a kernel compiler) and for what would make the answer
depend on the CPU at hand.
"""

# ruff: noqa: E402  What vLLM needs of the process stands before it is imported.
from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_PLUGINS": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
_STOOD_IN = (
    "torchvision", "torchaudio", "librosa", "soundfile", "soxr", "av", "decord", "timm",
    "open_clip", "cutlass",
)  # fmt: skip


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for libraries that only the vision and audio towers of a model need."""

    def __init__(self) -> None:
        self._names = {n for n in _STOOD_IN if importlib.util.find_spec(n) is None}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in self._names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__name__, module.__spec__ = [], spec.name, spec
        module.__version__ = "0.25.0"
        return module

    def exec_module(self, module: Any) -> None:
        pass


sys.meta_path.append(_StandIn())

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import (
    ensure_model_parallel_initialized,
    init_distributed_environment,
    parallel_state,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.transformers_utils.config import _CONFIG_REGISTRY
from vllm.utils.torch_utils import get_dtype_size, set_default_torch_dtype
from vllm.v1.kv_cache_interface import KVCacheSpec, MambaSpec


def main() -> None:
    _prepare()
    for line in sys.stdin:
        case = json.loads(line)
        try:
            answer = {"specs": specs(case["config"], case.get("flags", {}))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps({"id": case["id"], **answer}), flush=True)


def _prepare() -> None:
    torch.set_num_threads(1)
    # With it vLLM would keep recurrent states in float32, on the CPU alone.
    torch.cpu._is_avx512_bf16_supported = lambda: False
    # Without it vLLM turns prefix caching off for MLA, and refuses what needs that.
    torch.cpu._is_amx_tile_supported = lambda: True
    torch.cuda.Event = MagicMock()
    # A process of its own for each architecture would take seconds.
    registry._LazyRegisteredModel.inspect_model_cls = lambda model: (
        registry._ModelInfo.from_model_cls(model.load_model_cls())
    )
    with tempfile.NamedTemporaryFile() as rendezvous:
        init_distributed_environment(1, 0, f"file://{rendezvous.name}.store", 0, "gloo")


def specs(config: dict[str, Any], flags: dict[str, Any]) -> dict[str, int]:
    """How many layers have which cache, in the words of `describe`."""
    _know(config)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(config))
        arguments = EngineArgs(
            model=directory,
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            **({"max_model_len": 256} | flags),
        )
        vllm_config = arguments.create_engine_config()
        with set_current_vllm_config(vllm_config):
            parallel_state.destroy_model_parallel()
            ensure_model_parallel_initialized(1, 1)
            with torch.device("meta"), set_default_torch_dtype(vllm_config.model_config.dtype):
                initialize_model(vllm_config=vllm_config)
            layers = get_layers_from_vllm_config(vllm_config, AttentionLayerBase).values()
            # The runner gives no cache to a layer that attends to an earlier one's.
            own = (x for x in layers if not getattr(x, "kv_sharing_target_layer_name", None))
            found = [layer.get_kv_cache_spec(vllm_config) for layer in own]
    return dict(Counter(describe(spec) for spec in found if spec is not None))


def _know(config: dict[str, Any]) -> None:
    """A plain class for a model type whose class comes with its checkpoint."""
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING and model_type not in _CONFIG_REGISTRY:
        plain = type("PlainConfig", (PreTrainedConfig,), {"model_type": model_type})
        AutoConfig.register(model_type, plain)


def describe(spec: KVCacheSpec) -> str:
    """A layer's cache: ``BYTES``, ``BYTES in WINDOW`` (both per token) or ``state BYTES``."""
    if isinstance(spec, MambaSpec):
        sizes = zip(spec.shapes, spec.dtypes, strict=True)
        return f"state {sum(torch.Size(s).numel() * get_dtype_size(d) for s, d in sizes)}"
    per_token = f"{spec.page_size_bytes / spec.block_size:g}"
    window = getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None)
    return f"{per_token} in {window}" if window else per_token


if __name__ == "__main__":
    main()
