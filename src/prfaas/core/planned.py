"""What a deployment file says for planning alone: hardware without addresses, speeds, distances.

Planner and simulator read these keys (`prfaas.description`); a running system passes over them.
The types of the file itself (`prfaas.core.deployment`) take them over by inheritance.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from prfaas.core.strict import Strict

Tokens = str | int
"""``"32K"`` or ``32768``."""
Quantity = str | int | float
"""Takes a unit; a bare number is let in so that the error can name the units."""
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class InstancesConfig(Strict, frozen=True):
    """Equal engines that have no address (yet): enough to plan with and to simulate, not to run.

    ``role``: what they do; None in a PD cluster: the planner finds how many prefill and how many
    decode. ``profile`` and the rest as for an engine; ``max_num_seqs`` None: the largest batch of
    the profile.
    """

    count: Count
    role: Literal["prefill", "decode"] | None = None
    profile: str | None = None
    max_num_seqs: Count | None = None
    kv_tokens: Tokens | None = None


class PlannedEngine(Strict, frozen=True):
    """``profile``: how fast it is, a built-in name or a file beside this one (`prfaas profile`
    writes it); None: its cluster's. ``kv_tokens``: tokens whose KV cache fits beside the weights;
    None: the profile says, else no bound."""

    profile: str | None = None
    kv_tokens: Tokens | None = None


class PlannedPool(Strict, frozen=True):
    """What each machine's agent would cache: at most so much in ``memory`` and, beside it, on
    ``disk``; ``answers``: whether answers are kept as well. Instances have a machine each; of
    machines that the file describes it stands in place of their agents' own sizes."""

    memory: Quantity
    disk: Quantity = "0 B"
    answers: bool = False


class PlannedCluster(Strict, frozen=True):
    """``instances``: in place of machines. ``profile``: of all its engines that name none.
    ``prefix_cache``: tokens that all its prefix caches hold together, or ``unbounded``; ``agents``:
    those of its machines' agents, one by one; or sizes of planned ones, likewise. It matters where
    a trace says which prompts share a prefix."""

    instances: InstancesConfig | tuple[InstancesConfig, ...] | None = None
    profile: str | None = None
    prefix_cache: Tokens | PlannedPool = 0

    @property
    def pools(self) -> tuple[InstancesConfig, ...]:
        """Its ``instances``, however they are written."""
        if isinstance(self.instances, InstancesConfig):
            return (self.instances,)
        return self.instances or ()

    @property
    def has_agents(self) -> bool:
        """Whether machines cache one by one."""
        return self.prefix_cache == "agents" or isinstance(self.prefix_cache, PlannedPool)


class PlannedLink(Strict, frozen=True):
    """``rtt``: the line's round-trip time without queues. ``loss``: the share of packets lost. A
    running link measures both."""

    rtt: Quantity = "0 ms"
    loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class KvSizeConfig(Strict, frozen=True):
    """S_kv as two quantities of bytes."""

    constant: Quantity
    per_token: Quantity


class PlannedModel(Strict, frozen=True):
    """What a hand-off's size is computed from, where profiles do not say it: ``kv_size`` itself,
    or the config at ``path`` with these dtypes (None: the config's own, see `prfaas kv`)."""

    kv_size: KvSizeConfig | None = None
    kv_dtype: str | None = None
    state_dtype: str | None = None


class PlannedDeployment(Strict, frozen=True):
    """What may stand beside a deployment in its file; typed in `prfaas.description.file`."""

    name: str = ""
    workload: Any = None
    slo: Any = None
    prices: Any = None
    experiments: Any = None
