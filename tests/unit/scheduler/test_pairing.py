"""Pairs that do not fit, or do not reach each other, are not used; everything else goes on."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.scheduler_driver import LONG, SHORT, Driver


def layout(model: str, *, block_tokens: int = 256) -> KvLayout:
    layer = LayerLayout(name="l0", index=0, page_bytes=64, dtype="u8", shape=(64,))
    group = KvGroup(kind="full_attention", block_tokens=block_tokens, layers=(layer,))
    return KvLayout(model=model, groups=(group,))


OLD, NEW = layout("old"), layout("new")
ENGINES = {
    "e1": ("east", "prefill", "east-1"),
    "e2": ("east", "prefill", "east-2"),
    "p1": ("west", "prefill", "west-1"),
    "d1": ("west", "decode", "west-1"),
    "d2": ("west", "decode", "west-2"),
    "d3": ("west", "decode", "west-2"),
}


def topology(*, alignment_tokens: int | None = 256, near: str | None = None) -> Topology:
    return Topology(
        (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
        tuple(
            EngineSpec(name, cluster, role, 4, machine=machine)  # type: ignore[arg-type]
            for name, (cluster, role, machine) in ENGINES.items()
        ),
        (LinkSpec("east", "west", 25e6), LinkSpec("west", "west", 1e9)),
        alignment_tokens,
        near,
    )


def prefills(driver: Driver) -> list[tuple[str, str]]:
    return [(x.engine, x.decode_engine) for x in driver.log if isinstance(x, c.StartPrefill)]


def upgraded(driver: Driver, *new: str) -> None:
    """Those engines are of a new build, whose layout fits its own only."""
    driver(e.LayoutKnown(OLD, tuple(name for name in ENGINES if name not in new)))
    driver(e.LayoutKnown(NEW, new))
    old, fresh = OLD.fingerprint(), NEW.fingerprint()
    driver(e.PairingChanged(((old, fresh), (fresh, old))))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_policy_uses_a_pair_that_does_not_fit(policy: str) -> None:
    driver = Driver(topology(), policy=make_policy(SchedulerConfig(policy=policy)))
    new = {"e2", "d2"}
    upgraded(driver, *new)
    for number in range(40):
        driver.arrive(LONG + 300 * number, f"r{number}")
    assert prefills(driver)
    assert all((a in new) == (b in new) for a, b in prefills(driver))


def test_an_engine_to_which_nobody_can_hand_over_is_the_last_to_be_filled() -> None:
    driver = Driver(topology())
    upgraded(driver, "d1")
    for number in range(8):
        driver.arrive(LONG, f"r{number}")
    assert {b for _, b in prefills(driver)} == {"d2", "d3"}
    assert len(prefills(driver)) == 8


def test_hand_offs_end_at_the_blocks_of_the_engines_they_are_between() -> None:
    driver = Driver(topology(alignment_tokens=None))
    driver.arrive(LONG, "before")
    assert prefills(driver) == []
    driver(e.LayoutKnown(layout("m", block_tokens=512), tuple(ENGINES)))
    (start,) = [x for x in driver.arrive(LONG, "after") if isinstance(x, c.StartPrefill)]
    assert start.to_token == LONG // 512 * 512


def test_machines_that_do_not_reach_each_other_are_not_used_until_they_do() -> None:
    driver = Driver(topology())
    driver(e.MachinesCut("east-1", "west-1"))
    driver(e.MachinesCut("east-2", "west-2"))
    for number in range(12):
        driver.arrive(LONG, f"r{number}")
    assert ("e1", "d1") not in prefills(driver)
    assert not {("e2", "d2"), ("e2", "d3")} & set(prefills(driver))
    assert len(prefills(driver)) == 8  # Each of the two has four places.
    driver(e.MachinesJoined("east-2", "west-2"))
    for number in range(12):
        driver(e.RequestCancelled(f"r{number}"))
        driver.arrive(LONG, f"s{number}")
    assert {("e2", "d2"), ("e2", "d3")} & set(prefills(driver))


def test_what_crosses_a_cut_takes_another_route_after_the_grace() -> None:
    driver = Driver(topology(), link_grace="2 s")
    (start,) = [x for x in driver.arrive(LONG) if isinstance(x, c.StartPrefill)]
    source, target = ENGINES[start.engine][2], ENGINES[start.decode_engine][2]
    assert driver(e.MachinesCut(source, target), at=1.0) == []
    (cancelled, _, again) = driver.alarm()
    assert driver.now == 3.0
    assert isinstance(cancelled, c.CancelPrefill)
    assert isinstance(again, c.StartPrefill)
    assert (again.engine, again.decode_engine) != (start.engine, start.decode_engine)


def test_a_cut_shorter_than_the_grace_costs_nothing() -> None:
    driver = Driver(topology(), link_grace="2 s")
    (start,) = [x for x in driver.arrive(LONG) if isinstance(x, c.StartPrefill)]
    source, target = ENGINES[start.engine][2], ENGINES[start.decode_engine][2]
    driver(e.MachinesCut(source, target), at=1.0)
    driver(e.MachinesJoined(source, target), at=2.0)
    assert driver.alarm() == []


def test_a_transfer_is_used_only_on_the_machine_where_it_lies() -> None:
    driver = Driver(topology())
    _fill(driver, "d1", "d2", "d3")
    (start,) = [x for x in driver.arrive(LONG) if isinstance(x, c.StartPrefill)]
    driver(e.PrefillCompleted("r", 1))
    driver(e.TransferCompleted("r", 1))
    assert driver.scheduler.state("r").name == "READY"  # type: ignore[union-attr]
    machine = ENGINES[start.decode_engine][2]
    elsewhere = [n for n in ("d1", "d2") if ENGINES[n][2] != machine]
    assert _freed(driver, elsewhere[0]) == []
    here = [n for n in ("d1", "d2", "d3") if ENGINES[n][2] == machine]
    (decode,) = _freed(driver, here[-1])
    assert isinstance(decode, c.StartDecode)
    assert (decode.engine, decode.transfer_id) == (here[-1], start.transfer_id)


def test_a_hand_off_between_machines_of_a_cluster_is_booked_on_its_network() -> None:
    driver = Driver(topology())
    for name in ("e1", "e2"):
        driver(e.EngineDown(name, "gone"))
    driver.arrive(SHORT, "a", cached={"d2": 256})
    assert prefills(driver) == [("p1", "d2")]
    inside = driver.scheduler.view.link("west", "west")
    assert inside is not None
    assert inside.transfers == 1
    driver(e.LinkStateChanged("west", "west", up=False), at=1.0)
    out = driver.alarm()
    assert any(isinstance(x, c.StartDecode) and x.engine == "d2" for x in out), out


def test_near_engines_are_filled_first_and_what_is_over_goes_far() -> None:
    topo = Topology(
        (ClusterSpec("west", "pd"), ClusterSpec("south", "pd")),
        (
            EngineSpec("w", "west", "decode", 3),
            EngineSpec("s", "south", "decode", 3),
        ),
        (),
        256,
        near="south",
    )
    driver = Driver(topo)
    for number in range(4):
        driver.arrive(100, f"r{number}")
    started = [x.engine for x in driver.log if isinstance(x, c.StartDecode)]
    assert started == ["s", "s", "s", "w"]


def test_a_request_that_waits_for_one_cluster_takes_the_free_slot_of_another() -> None:
    topo = Topology(
        (ClusterSpec("w1", "pd"), ClusterSpec("w2", "pd")),
        (EngineSpec("d1", "w1", "decode", 1), EngineSpec("d2", "w2", "decode", 1)),
        (),
        256,
    )
    driver = Driver(topo)
    driver.arrive(100, "a")
    driver.arrive(100, "b")
    driver.arrive(100, "waits", cached={"d1": 100})
    assert driver.scheduler.state("waits").name == "READY"  # type: ignore[union-attr]
    first = next(x for x in driver.log if isinstance(x, c.StartDecode) and x.engine == "d2")
    (start,) = driver(e.RequestCompleted(first.request_id, 1))
    assert (start.request_id, start.engine) == ("waits", "d2")  # type: ignore[union-attr]


def _fill(driver: Driver, *engines: str) -> None:
    """Short answers take every slot of ``engines``."""
    for name in engines:
        for number in range(4):
            driver.arrive(100, f"{name}-{number}", cached={name: 100})


def _freed(driver: Driver, engine: str) -> list[c.AnyCommand]:
    """One of them ends."""
    running = [
        x.request_id for x in driver.log if isinstance(x, c.StartDecode) and x.engine == engine
    ]
    return driver(e.RequestCompleted(running[0], 1))


def test_a_hand_off_to_a_machine_without_a_decode_engine_is_given_up_at_once() -> None:
    driver = Driver(topology())
    _fill(driver, "d2", "d3")
    (start,) = [x for x in driver.arrive(LONG) if isinstance(x, c.StartPrefill)]
    assert start.decode_engine == "d1"
    out = driver(e.EngineDown("d1", "gone"))
    again = [x for x in out if isinstance(x, c.StartPrefill)]
    assert [x.decode_engine for x in again if x.request_id == "r"] in (["d2"], ["d3"]), out


def test_a_hand_off_goes_on_where_its_machine_has_another_decode_engine() -> None:
    driver = Driver(topology())
    _fill(driver, "d1")
    starts = [x for n in range(2) for x in driver.arrive(LONG, f"r{n}")]
    taken = next(x for x in starts if isinstance(x, c.StartPrefill) and x.decode_engine == "d2")
    out = driver(e.EngineDown("d2", "gone"))
    assert not [x for x in out if getattr(x, "request_id", "") == taken.request_id]
    driver(e.PrefillCompleted(taken.request_id, 1))
    (decode,) = driver(e.TransferCompleted(taken.request_id, 1))
    assert (decode.engine, decode.transfer_id) == ("d3", taken.transfer_id)  # type: ignore[union-attr]


def test_an_engine_whose_agent_is_away_is_the_last_to_be_given_long_prompts() -> None:
    driver = Driver(topology())
    driver(e.EngineUp("d1", takes_handoffs=False))
    for number in range(8):
        driver.arrive(LONG, f"r{number}")
    assert {b for _, b in prefills(driver)} == {"d2", "d3"}


def test_no_engine_by_itself_says_how_large_hand_offs_between_others_are() -> None:
    told: list[KvLayout] = []
    driver = Driver(topology())
    pairing = driver.scheduler.view.pairing
    pairing._on_layout = told.append
    for number, engine in enumerate(("e1", "e2", "d1", "d2")):
        driver(e.LayoutKnown(OLD, (engine,)))
        driver(e.LayoutKnown(layout(f"odd {number}"), ("p1",)))
    assert told[0] is OLD
    assert set(told) == {OLD}
    assert len(pairing._layouts) == 2, "what no engine has any more is forgotten"
    assert len(pairing._alignments) == 3
    driver(e.LayoutKnown(NEW, ("e1", "e2", "d1")))
    assert told[-1] is NEW


def test_boundaries_are_multiples_of_both_engines_blocks() -> None:
    driver = Driver(topology())
    driver(e.LayoutKnown(layout("m", block_tokens=48), ("e1",)))
    driver(e.LayoutKnown(layout("m", block_tokens=32), ("d1",)))
    engines, pairing = driver.scheduler.view.engines, driver.scheduler.view.pairing
    assert pairing.alignment_tokens(engines["e1"], engines["d1"]) == 96
