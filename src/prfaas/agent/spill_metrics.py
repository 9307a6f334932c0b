"""What Prometheus reads of the cache's tier on disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prfaas.agent import families
from prfaas.agent.driver import PoolDriver
from prfaas.agent.spill_port import SpillPort


class SpillCollector(Collector):
    """Reads the pool's counts and the port's rate."""

    def __init__(self, driver: PoolDriver, port: SpillPort) -> None:
        self._driver, self._port = driver, port

    def collect(self) -> Iterator[Metric]:
        """Sizes are told with those of memory (`agent.metrics`)."""
        counters = self._driver.snapshot().counters
        yield families.counters(
            "pool_spill_parts", "Cached parts, by what became of them on disk", "outcome",
            {
                "written": counters.spill_written,
                "not_written": counters.spill_write_failures,
                "missed": counters.spill_missed,
                "found": counters.spill_found,
                "read": counters.spill_read,
                "unreadable": counters.spill_read_failures,
                "dropped": counters.spill_dropped,
            },
        )  # fmt: skip
        yield families.counters(
            "pool_spill_bytes", "Bytes of cached parts written to disk and read back", "direction",
            {"written": counters.spill_written_bytes, "read": counters.spill_read_bytes},
        )  # fmt: skip
        yield GaugeMetricFamily(
            "prfaas_pool_spill_read_bytes_per_second",
            "Rate of the last files read, 0 before the first",
            self._port.read_bytes_per_s,
        )  # fmt: skip
