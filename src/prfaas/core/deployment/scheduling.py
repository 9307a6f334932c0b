"""The routing policy and its limits, as the deployment file describes them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from prfaas.core.deployment.engines import Positive
from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.core.units import parse_duration


class SchedulerConfig(Strict, frozen=True):
    """The routing policy (see ``policies/``) with its options, and when a route is given up.

    Which options a policy has, and their defaults, is said once, beside the policy; one that it
    does not have is refused when the policy is made. ``threshold`` and ``bandwidth`` are options
    that may stand outside ``options``, for short.
    """

    policy: str = ""
    """Where none is named: ``auto``; but ``threshold`` where there is a threshold."""
    threshold: str | int | None = None
    bandwidth: Literal["measured", "scarce", "abundant"] | None = None
    options: dict[str, int | float | bool | str] = msgspec.field(default_factory=dict)
    roles: Literal["live", "dry-run", "fixed"] = "live"
    """Whether engines of PD clusters change their roles when the policy calls for it; ``dry-run``:
    what it calls for is only told, in the log, metrics and status."""
    link_grace: str = "2 s"
    """How long a link may be down before the requests that use it take another route."""
    transfer_stall: str = "10 s"
    """After prefill, how long a transfer may make no progress before it is given up; so is one
    whose pace over this time leaves it more than twice as long to go."""
    engine_wait: str = "120 s"
    """How long a request waits for any engine that could answer it to come (back) up."""
    attempt_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """The share of the time left to the deadline after which another engine is asked, too."""
    max_attempts: Positive = 8

    def __post_init__(self) -> None:
        if not self.policy:
            fixed = self.threshold is not None or "threshold" in self.options
            msgspec.structs.force_setattr(self, "policy", "threshold" if fixed else "auto")

    def policy_options(self) -> dict[str, int | float | bool | str]:
        """The options that are given, wherever they stand. Raises ConfigError for one that is given
        twice."""
        short: dict[str, str | int | None] = {
            "threshold": self.threshold,
            "bandwidth": self.bandwidth,
        }
        given = {key: value for key, value in short.items() if value is not None}
        for key in given:
            if key in self.options:
                raise ConfigError(f"{key} is written twice; leave it out of options")
        return {**given, **self.options}

    @property
    def link_grace_s(self) -> float:
        """``link_grace`` in seconds. Raises ConfigError."""
        return parse_duration(self.link_grace)

    @property
    def transfer_stall_s(self) -> float:
        """``transfer_stall`` in seconds. Raises ConfigError."""
        return parse_duration(self.transfer_stall)

    @property
    def engine_wait_s(self) -> float:
        """``engine_wait`` in seconds. Raises ConfigError."""
        return parse_duration(self.engine_wait)
