"""Clusters and the lines between them, as the planner computes with them."""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.models.profiles import InstanceProfile

HOURS_PER_MONTH = 730.0


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Instances of one kind in one place."""

    name: str
    kind: Literal["prfaas", "pd"]
    profile: InstanceProfile
    instances: int
    usd_per_gpu_hour: float | None = None

    @property
    def prefill_name(self) -> str:
        """Of the cluster's prefill time, as a resource."""
        return f"{self.name} prefill"

    @property
    def decode_name(self) -> str:
        """Of a PD cluster's decode slots, as a resource."""
        return f"{self.name} decode"

    @property
    def usd_per_hour(self) -> float | None:
        """Rent of the cluster; None where no price is given."""
        if self.usd_per_gpu_hour is None:
            return None
        return self.usd_per_gpu_hour * self.instances * self.profile.gpus


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What carries KV from one cluster to another, in one direction."""

    source: str
    target: str
    bytes_per_s: float
    rtt_s: float = 0.0
    usd_per_month: float = 0.0
    usd_per_gb: float = 0.0
    """Per 10^9 bytes sent."""

    @property
    def name(self) -> str:
        """``SOURCE to TARGET``."""
        return f"{self.source} to {self.target}"

    def usd_per_hour(self, bytes_per_s: float) -> float:
        """Rent plus traffic at a mean rate of ``bytes_per_s``."""
        return self.usd_per_month / HOURS_PER_MONTH + bytes_per_s * 3600 / 1e9 * self.usd_per_gb
