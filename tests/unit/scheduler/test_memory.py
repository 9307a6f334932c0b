"""No prefill starts whose hand-off could not be received, and what is booked is given back."""

from __future__ import annotations

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.scheduler_driver import Driver

LONG = 100
"""Tokens, and bytes of its hand-off with the last slot of 10 filled up."""


class Harness:
    """Prefill engines e1, e2 with many places; d1 on machine m1 and d2 on m2."""

    def __init__(self, places: int = 8) -> None:
        topology = Topology(
            (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
            (
                *(EngineSpec(n, "east", "prefill", places, machine="m0") for n in ("e1", "e2")),
                *(EngineSpec(f"d{i}", "west", "decode", 9, machine=f"m{i}") for i in (1, 2)),
            ),
            (LinkSpec("east", "west", 1e6),),
            alignment_tokens=4,
        )
        self.drive = Driver(topology, threshold=50)
        self.scheduler = self.drive.scheduler
        self(e.EngineDown("d2", "not here"))

    def __call__(self, event: e.AnyEvent) -> list[str]:
        """Which requests were started, ``prefill ID`` or ``decode ID``."""
        words = {c.StartPrefill: "prefill", c.StartDecode: "decode"}
        return [
            f"{words[type(command)]} {command.request_id}"
            for command in self.drive(event)
            if isinstance(command, c.StartPrefill | c.StartDecode)
        ]

    def arrive(self, name: str, tokens: int = LONG, *, sequences: int = 1) -> list[str]:
        return self(e.RequestArrived(name, tokens, 9, sequences=sequences))

    def memory(self, total: int, reserved: int = 0, machine: str = "m1") -> list[str]:
        return self(e.MemoryReported(machine, total, reserved, slot_bytes=10))

    def cross(self, name: str) -> list[str]:
        return self(e.PrefillCompleted(name, 1)) + self(e.TransferCompleted(name, 1))


def test_without_a_report_there_is_room_for_everything() -> None:
    h = Harness()
    assert [h.arrive(n) for n in "abc"] == [["prefill a"], ["prefill b"], ["prefill c"]]


def test_a_prefill_waits_for_room_and_starts_with_the_first_token_of_another() -> None:
    h = Harness()
    h.memory(150)
    assert h.arrive("a") == ["prefill a"]
    assert h.arrive("b") == []
    assert h.scheduler.state("b") is State.WAITING
    assert h.arrive("small", 60) == []  # It would fit, and is not let past.
    assert h.cross("a") == ["decode a"]
    assert h(e.FirstToken("a", 1)) == ["prefill b"]
    assert h.cross("b") == ["decode b"]
    assert h(e.RequestCompleted("b", 1)) == ["prefill small"]


def test_what_several_sequences_read_stays_until_the_last_has() -> None:
    h = Harness()
    h.memory(150)
    h.arrive("a", sequences=2), h.cross("a")
    assert h.arrive("b") == []
    assert h(e.FirstToken("a", 1)) == []
    assert h(e.RequestCompleted("a", 1)) == ["prefill b"]


def test_what_can_never_fit_is_not_handed_over() -> None:
    h = Harness()
    h.memory(90)
    assert h.arrive("a") == ["decode a"]
    assert h.arrive("b", 60) == ["prefill b"]


def test_what_others_have_reserved_counts_until_they_give_it_back() -> None:
    h = Harness()
    h.memory(250, reserved=100)
    assert h.arrive("a") == ["prefill a"]
    assert h.arrive("b") == []
    assert h.memory(250, reserved=200) == []  # Ours and theirs.
    assert h.memory(250, reserved=100) == ["prefill b"]


def test_who_waits_may_go_and_the_next_starts() -> None:
    h = Harness()
    h.memory(150)
    h.arrive("a"), h.arrive("b"), h.arrive("c")
    assert h(e.RequestCancelled("b")) == []
    assert h(e.RequestCancelled("a")) == ["prefill c"]


def test_a_place_that_comes_free_goes_to_one_that_has_room() -> None:
    h = Harness(places=1)
    h(e.EngineDown("e2", "not here"))
    h(e.EngineUp("d2"))
    h.memory(90, machine="m2"), h.memory(100, machine="m1")
    assert h.arrive("a", 60) == ["prefill a"]
    assert h.arrive("b", 60) == []
    assert h.arrive("c", 60) == []
    started = h(e.PrefillCompleted("a", 1))
    assert started == ["prefill b"]


def test_a_hand_off_that_is_given_up_gives_its_memory_back() -> None:
    h = Harness()
    h.memory(150)
    h.arrive("a"), h.arrive("b")
    started = h(e.TransferFailed("a", 1, "line cut"))
    assert "prefill b" in started or "prefill a" in started
    h(e.EngineDown("e1", "gone"))
    h(e.EngineDown("e2", "gone"))
    for name in "ab":
        h(e.RequestCancelled(name))
    assert h.scheduler.live_requests == 0
