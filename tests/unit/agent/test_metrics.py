"""What Prometheus reads is one snapshot of the pool."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from prfaas.agent.driver import PoolDriver
from prfaas.agent.metrics import agent_metrics
from prfaas.agent.no_link import NoLink
from prfaas.pool.events import ExportAborted, TransferCancelled
from prfaas.testing.pool_kit import COUNT, SLOT, PoolRig


@pytest.fixture
def rig() -> PoolRig:
    return PoolRig()


def page(rig: PoolRig) -> set[str]:
    driver = PoolDriver(rig.pool, post=lambda way: way(), copy=lambda *_: None)
    return set(generate_latest(agent_metrics(driver, NoLink())).decode().splitlines())


def test_slots_and_what_is_under_way(rig: PoolRig) -> None:
    rig.begin("x", 2 * SLOT)
    rig.fill("x", (0, SLOT))
    rig.lease()
    assert page(rig) >= {
        f'prfaas_pool_slots{{state="free"}} {COUNT - 2:.1f}',
        'prfaas_pool_slots{state="leased"} 1.0',
        'prfaas_pool_slots{state="held"} 1.0',
        'prfaas_pool_slots{state="promised"} 1.0',
        f"prfaas_pool_slot_bytes {SLOT:.1f}",
        "prfaas_agent_engines 2.0",
        'prfaas_pool_open_transfers{side="export"} 1.0',
        'prfaas_pool_open_transfers{side="reception"} 1.0',
        f'prfaas_pool_exported_bytes_total{{path="local"}} {SLOT:.1f}',
        f"prfaas_pool_received_bytes_total {SLOT:.1f}",
    }


def test_how_transfers_ended(rig: PoolRig) -> None:
    rig.begin("whole", SLOT)
    rig.fill("whole", (0, SLOT))
    rig.open("whole", SLOT)
    rig.begin("half", 2 * SLOT)
    rig.say(ExportAborted(1, "half", "client left"))
    rig.say(TransferCancelled("never"))
    rig.open("never", SLOT)
    assert page(rig) >= {
        'prfaas_pool_exports_total{outcome="complete"} 1.0',
        'prfaas_pool_exports_total{outcome="failed"} 1.0',
        'prfaas_pool_receptions_total{outcome="complete"} 1.0',
        'prfaas_pool_receptions_total{outcome="failed"} 1.0',
        'prfaas_pool_imports_total{outcome="ready"} 1.0',
        'prfaas_pool_imports_total{outcome="failed"} 1.0',
        "prfaas_pool_stalls_total 0.0",
    }
