"""One vLLM server, as the deployment file describes it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from prfaas.core.deployment.engine_args import is_named, option
from prfaas.core.deployment.secrets import KeySource
from prfaas.core.planned import PlannedEngine

EngineRole = Literal["prefill", "decode"]

Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
ProcessName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
"""Logs, sockets and sessions are called by it."""


_MICRO_BATCHES = frozenset({"--enable-dbo", "--ubatch-size"})


class EngineConfig(PlannedEngine, frozen=True, kw_only=True):
    """One vLLM server. Without ``url`` it is started by `prfaas up` on a free port."""

    name: ProcessName
    role: EngineRole
    url: str | None = None
    api_key_file: str | None = None
    """Where its ``--api-key`` is: the file's first line that is a key. One that `prfaas up` starts
    is given it."""
    api_key_env: str | None = None
    """The same, in an environment variable."""
    ca: str | None = None
    """Of an ``https`` url: the authority (PEM) of the engine's certificate, where this machine does
    not trust it anyway."""
    kv_events: str | None = None
    """ZMQ endpoint of the engine's KV events, ``tcp://host:port``; chosen where we start it."""
    kv_events_replay: str | None = None
    cpus: str | None = None
    """Cores the CPU engine is pinned to, as ``VLLM_CPU_OMP_THREADS_BIND`` takes them."""
    gpus: str | None = None
    """GPUs the engine sees, as ``CUDA_VISIBLE_DEVICES`` takes them; chosen where we start it."""
    gpu_memory_share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Of each of its GPUs, as ``--gpu-memory-utilization`` takes it; chosen where we start it."""
    max_num_seqs: Positive = 32
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def keys(self) -> KeySource:
        """Where the key that it asks for comes from."""
        return KeySource(file=self.api_key_file, env=self.api_key_env)

    @property
    def micro_batches(self) -> bool:
        """Whether vLLM is told to cut its steps in micro-batches: such an engine cannot export."""
        return is_named(self.args, _MICRO_BATCHES)

    def option(self, *names: str) -> str | None:
        """What ``args`` say of a vLLM option (``--name value`` or ``--name=value``), by any of its
        names; None where they do not name it, empty where it has no value."""
        return option(self.args, *names)
