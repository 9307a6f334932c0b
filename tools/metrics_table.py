"""The table of all metrics in docs/metrics.md, from the running product's own registries.

``python tools/metrics_table.py --write`` writes it; a test compares it with what a gateway and an
agent export over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from prfaas.agent.service import Agent
from prfaas.agent.settings import AgentSettings
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.tls.authority import create_authority, issue

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: begin -->", "<!-- metrics: end -->"
_UNITS = {"seconds": "s", "bytes": "bytes", "tokens": "tokens", "ratio": "0 to 1"}


@dataclass(frozen=True, order=True)
class Row:
    """One metric: as it is named in a query."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def unit(self) -> str:
        """From the name, as Prometheus has it."""
        words = self.name.removesuffix("_total").split("_")
        if words[-2:] == ["per", "second"]:
            return f"{words[-3]}/s"
        return next((_UNITS[word] for word in reversed(words) if word in _UNITS), "")

    def __str__(self) -> str:
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"| `{self.name}` | {self.kind} | {labels} | {self.unit} | {self.text.rstrip('.')} |"


def rows(registry: CollectorRegistry) -> Iterator[Row]:
    """All that a registry exports, also what has no values yet."""
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            names: Any = getattr(collector, "_labelnames", None) or getattr(
                family, "_labelnames", ()
            )
            total = "_total" if family.type == "counter" else ""
            yield Row(family.name + total, family.type, tuple(names), family.documentation)


@asynccontextmanager
async def agent_with_tls(run: Path) -> Any:
    """A real agent with certificates, so that it has every metric."""
    create_authority(run)
    settings = AgentSettings(
        name="west", arena_bytes=64 << 16, slot_bytes=1 << 16, export_slots=16, cache_slots=0,
        engines=frozenset({"e"}), socket=run / "s", admin="127.0.0.1:0",
        link=TcpLinkConfig(name="west", security=issue(run, "west", days=90)),
    )  # fmt: skip
    agent = Agent(settings)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


async def every_row() -> tuple[list[Row], list[Row]]:
    """Of a gateway, and of an agent; by name."""
    mock = MockDeployment()
    async with mock.running():
        gateway = sorted(rows(mock.gateway.metrics.registry))
    with tempfile.TemporaryDirectory() as run:
        async with agent_with_tls(Path(run)) as agent:
            return gateway, sorted(rows(agent.metrics))


def table(gateway: list[Row], agent: list[Row]) -> str:
    """As it stands in the page."""
    head = "| metric | type | labels | unit | what it says |\n|---|---|---|---|---|\n"
    parts = [
        f"**Gateways** (`GET /metrics`)\n\n{head}" + "\n".join(map(str, gateway)),
        f"**Agents** (`GET /metrics` of the admin address)\n\n{head}" + "\n".join(map(str, agent)),
    ]
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into docs/metrics.md")
    arguments = parser.parse_args()
    made = table(*asyncio.run(every_row()))
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    before, tail = rest.split(END)
    if arguments.write:
        PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}")
        return 0
    print(made)
    return 0 if before.strip() == made.strip() else 1


if __name__ == "__main__":
    sys.exit(main())
