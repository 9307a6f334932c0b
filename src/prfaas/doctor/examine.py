"""All checks, one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.doctor.certificates import check_certificates
from prfaas.doctor.doors import check_doors
from prfaas.doctor.finding import Finding
from prfaas.doctor.machine import check_machine
from prfaas.doctor.network import check_network
from prfaas.doctor.rates import check_rates
from prfaas.doctor.software import check_software
from prfaas.doctor.storage import check_storage
from prfaas.tls.agents import Trust


async def examine(
    deployment: Deployment | None, *, now: float, measure_s: float = 0.0
) -> AsyncIterator[Finding]:
    """Findings as they are made; without a deployment only those of the machine.

    Args:
        now: Unix seconds, for certificates.
        measure_s: for how long test data goes over each pair's link; 0: none does.
    """
    for finding in check_software():
        yield finding
    for finding in check_machine(deployment):
        yield finding
    if deployment is not None:
        for finding in check_certificates(deployment, now=now):
            yield finding
        for finding in check_doors(deployment):
            yield finding
        for finding in check_storage(deployment):
            yield finding
        try:
            trust = Trust(deployment)
        except ConfigError as error:
            yield Finding("network", "error", f"nobody is asked: {error}", "mend that file")
            return
        async for finding in check_network(deployment, trust):
            yield finding
        if measure_s > 0:
            async for finding in check_rates(deployment, trust, seconds=measure_s):
                yield finding
