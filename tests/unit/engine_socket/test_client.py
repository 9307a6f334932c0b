"""The engine's client against a scripted agent on a real Unix socket."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from prfaas.core.errors import CapacityError, PeerError
from prfaas.core.extents import Extent
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.engine_socket import session
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.errors import (
    AgentUnavailable,
    ExportUnwanted,
    RegistrationRefused,
    TransferUnusable,
)
from prfaas.engine_socket.framing import FrameBuffer, decode_from_engine, encode
from prfaas.engine_socket.messages import (
    AgentMessage,
    BeginExport,
    CloseImport,
    ExportSlot,
    ExportStopped,
    FinishExport,
    ImportFailed,
    ImportReady,
    LeaseSlots,
    OpenImport,
    Refused,
    Registered,
    RegisterEngine,
    ReturnSlots,
    SlotsLeased,
)
from prfaas.testing.mock_engine_rank import MOCK_DIGEST

SLOT, COUNT = 4096, 8
M = TypeVar("M")
WAIT_S = 60.0

LAYOUT = KvLayout(
    model="m",
    groups=(
        KvGroup(
            kind="full_attention",
            block_tokens=16,
            layers=(LayerLayout(name="l0", index=0, page_bytes=64, dtype="int8", shape=(64,)),),
        ),
    ),
)


class ScriptedAgent:
    """Accepts connections; the test says what to expect and what to answer."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(WAIT_S)
        self.arena_fd = os.memfd_create("test-arena")
        os.ftruncate(self.arena_fd, SLOT * COUNT)
        self._conn: socket.socket | None = None

    def accept(self) -> RegisterEngine:
        self.hang_up()
        self._conn, _ = self._listener.accept()
        self._conn.settimeout(WAIT_S)
        self._frames, self._pending = FrameBuffer(), []
        return self.expect(RegisterEngine)

    def register(self, slot_count: int = COUNT) -> None:
        self.accept()
        assert self._conn is not None
        os.ftruncate(self.arena_fd, SLOT * slot_count)
        answer = Registered(agent="west", slot_bytes=SLOT, slot_count=slot_count)
        socket.send_fds(self._conn, [encode(answer)], [self.arena_fd])

    def expect(self, kind: type[M]) -> M:
        assert self._conn is not None
        while not self._pending:
            data = self._conn.recv(65536)
            assert data, "client closed the connection"
            self._pending += self._frames.feed(data)
        message = decode_from_engine(self._pending.pop(0))
        assert isinstance(message, kind), message
        return message

    def expect_end(self) -> None:
        assert self._conn is not None
        assert self._conn.recv(1) == b""

    def say(self, message: AgentMessage) -> None:
        assert self._conn is not None
        self._conn.sendall(encode(message))

    def stop_sending(self) -> None:
        assert self._conn is not None
        self._conn.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def close(self) -> None:
        self.hang_up()
        self._listener.close()
        os.close(self.arena_fd)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[ScriptedAgent]:
    agent = ScriptedAgent(tmp_path / "agent.sock")
    yield agent
    agent.close()


@pytest.fixture
def client(agent: ScriptedAgent, tmp_path: Path) -> Iterator[AgentClient]:
    client = AgentClient(str(tmp_path / "agent.sock"), engine="p0", layout=LAYOUT, stock_slots=4)
    yield client
    client.close()


def begin(client: AgentClient, transfer_id: str = "x", total_bytes: int = 64) -> None:
    client.begin_export(
        BeginExport(
            transfer_id=transfer_id,
            destination="west",
            from_token=0,
            to_token=16,
            total_bytes=total_bytes,
            deadline_s=9,
            prompt_digest=MOCK_DIGEST,
            readers=("w",),
        )
    )


def connect(agent: ScriptedAgent, client: AgentClient) -> None:
    agent.register()
    client.wait_connected(WAIT_S)


class ArenaNotes:
    def __init__(self) -> None:
        self.opened: list[memoryview] = []
        self.unused: list[memoryview] = []
        self.told = threading.Event()

    def arena_opened(self, arena: memoryview) -> None:
        self.opened.append(arena)

    def arena_unused(self, arena: memoryview) -> None:
        self.unused.append(arena)
        self.told.set()


@pytest.mark.parametrize(("own", "trusts"), [(4711, False), (None, True), (0, True)])
def test_an_agent_of_another_user_learns_nothing(
    own: int | None, trusts: bool, agent: ScriptedAgent, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    theirs = os.getuid() or 12
    monkeypatch.setattr(session, "_peer_uid", lambda _: theirs)
    monkeypatch.setattr(session.os, "getuid", lambda: theirs if own is None else own)
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        agent_side = threading.Thread(target=agent.register if trusts else lambda: None)
        agent_side.start()
        register = RegisterEngine(engine="p0", layout=LAYOUT, pid=1)
        if trusts:
            session.open_session(sock, path, register, timeout_s=WAIT_S)
        else:
            with pytest.raises(PeerError, match=f"user {theirs} listens at {path}"):
                session.open_session(sock, path, register, timeout_s=WAIT_S)
        agent_side.join()


def test_an_arena_is_told_of_when_it_opens_and_when_nothing_of_it_is_used(
    agent: ScriptedAgent, tmp_path: Path
) -> None:
    """Who has pinned it may let it go only then."""
    notes = ArenaNotes()
    client = AgentClient(
        str(tmp_path / "agent.sock"), engine="p0", layout=LAYOUT, stock_slots=4, arenas=notes
    )
    connect(agent, client)
    assert [len(arena) for arena in notes.opened] == [SLOT * COUNT]
    begin(client)
    agent.expect(BeginExport)
    agent.expect(LeaseSlots)
    agent.say(SlotsLeased((5,)))
    slot = client.lease(WAIT_S)
    agent.hang_up()
    agent.register()
    client.wait_connected(WAIT_S)
    while len(notes.opened) < 2:
        notes.told.wait(0.01)
    assert not notes.unused, "a slot of it is still being filled"
    client.return_slot(slot)
    assert notes.told.wait(WAIT_S)
    assert notes.unused == notes.opened[:1]
    client.close()


def test_exports_through_leased_slots(agent: ScriptedAgent, client: AgentClient) -> None:
    connect(agent, client)
    begin(client)
    assert agent.expect(BeginExport).transfer_id == "x"
    assert agent.expect(LeaseSlots) == LeaseSlots(4)
    agent.say(SlotsLeased((5, 6)))
    slot = client.lease(WAIT_S)
    slot.view[:4] = b"abcd"
    assert client.export_slot("x", slot, [Extent(0, slot.offset, 4)])
    assert agent.expect(LeaseSlots) == LeaseSlots(3)
    assert agent.expect(ExportSlot) == ExportSlot("x", 5, (Extent(0, 5 * SLOT, 4),))
    assert os.pread(agent.arena_fd, 4, 5 * SLOT) == b"abcd"
    assert client.finish_export("x") is None
    agent.expect(FinishExport)
    assert agent.expect(ReturnSlots) == ReturnSlots((6,))
    agent.say(SlotsLeased((1, 2)))  # the late answer goes straight back
    assert agent.expect(ReturnSlots) == ReturnSlots((1, 2))


@pytest.mark.parametrize(
    ("slot_count", "filled", "asked"),
    [(1024, 10, 10), (1024, 300, 64), (8192, 300, 256), (COUNT, 300, 4), (1024, 1, 4)],
)
def test_as_many_slots_are_held_ahead_as_an_export_will_fill(
    slot_count: int, filled: int, asked: int, agent: ScriptedAgent, client: AgentClient
) -> None:
    agent.register(slot_count)
    client.wait_connected(WAIT_S)
    begin(client, total_bytes=filled * SLOT - 1)
    agent.expect(BeginExport)
    assert agent.expect(LeaseSlots) == LeaseSlots(asked)


def test_no_more_slots_are_asked_for_than_an_export_is_still_to_fill(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    agent.register(1024)
    client.wait_connected(WAIT_S)
    begin(client, total_bytes=12 * SLOT)
    agent.expect(BeginExport)
    assert agent.expect(LeaseSlots) == LeaseSlots(12)
    agent.say(SlotsLeased(tuple(range(12))))
    slots = [client.lease(WAIT_S, transfer_id="x") for _ in range(12)]
    # Only where two were left, below what is held in any case.
    assert agent.expect(LeaseSlots) == LeaseSlots(2)
    for slot in slots:
        client.return_slot(slot)


def test_lease_is_bounded_by_its_timeout(agent: ScriptedAgent, client: AgentClient) -> None:
    connect(agent, client)
    with pytest.raises(CapacityError, match="no arena slot"):
        client.lease(0.01)


def test_a_lease_for_an_export_that_is_stopped_is_not_waited_for(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    connect(agent, client)
    begin(client)
    agent.say(ExportStopped("x", "cancelled"))
    with pytest.raises(ExportUnwanted, match="export stopped: cancelled"):
        client.lease(WAIT_S, transfer_id="x")


def test_nor_is_one_for_an_export_that_was_stopped_before(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    connect(agent, client)
    begin(client)
    agent.say(ExportStopped("x", "cancelled"))
    while not client.stopped("x"):
        time.sleep(0.001)
    with pytest.raises(ExportUnwanted, match="export stopped: cancelled"):
        client.lease(0.0, transfer_id="x")


def test_stopped_export_returns_its_slots(agent: ScriptedAgent, client: AgentClient) -> None:
    connect(agent, client)
    begin(client)
    agent.expect(BeginExport)
    agent.expect(LeaseSlots)
    agent.say(ExportStopped("x", "no memory"))
    agent.say(SlotsLeased((3,)))
    slot = client.lease(WAIT_S)
    assert client.stopped("x") == "no memory"
    assert not client.export_slot("x", slot, [Extent(0, slot.offset, 4)])
    agent.expect(LeaseSlots)
    assert agent.expect(ReturnSlots) == ReturnSlots((3,))
    assert client.finish_export("x") == "no memory"


def test_two_imports_share_one_request(agent: ScriptedAgent, client: AgentClient) -> None:
    connect(agent, client)
    one = client.open_import(
        OpenImport("x", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    two = client.open_import(
        OpenImport("x", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    assert agent.expect(OpenImport) == OpenImport("x", 0, 16, 8, MOCK_DIGEST)
    os.pwrite(agent.arena_fd, b"12345678", SLOT)
    agent.say(ImportReady("x", (Extent(0, SLOT, 5), Extent(5, SLOT + 5, 3))))
    for opened in (one, two):
        extents, arena = opened.future.result(WAIT_S), opened.session.arena
        read = [(flat, bytes(arena[at : at + length])) for flat, at, length in extents]
        assert read == [(0, b"12345"), (5, b"678")]
    with pytest.raises(ValueError, match="differs"):
        client.open_import(
            OpenImport("x", from_token=0, to_token=16, total_bytes=9, prompt_digest=MOCK_DIGEST)
        )
    client.close_import(one)
    client.close_import(one)
    client.close_import(two)
    agent.expect(CloseImport)


def test_late_answer_is_not_taken_for_a_newer_import(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    connect(agent, client)
    old = client.open_import(
        OpenImport("x", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    client.close_import(old)
    assert old.future.cancelled()
    new = client.open_import(
        OpenImport("x", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    agent.say(ImportReady("x", (Extent(0, 0, 8),)))
    agent.say(ImportFailed("x", "dropped"))
    with pytest.raises(TransferUnusable, match="dropped"):
        new.future.result(WAIT_S)


@pytest.mark.parametrize("extents", [(), (Extent(0, 0, 7),), (Extent(1, 0, 7), Extent(0, 9, 1))])
def test_incomplete_extents_are_an_error(
    agent: ScriptedAgent, client: AgentClient, extents: tuple[Extent, ...]
) -> None:
    connect(agent, client)
    opened = client.open_import(
        OpenImport("x", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    agent.say(ImportReady("x", extents))
    with pytest.raises(TransferUnusable, match="are not those of"):
        opened.future.result(WAIT_S)
    client.close_import(opened)
    agent.expect(OpenImport)
    agent.expect(CloseImport)


def test_refusal_names_the_reason(agent: ScriptedAgent, client: AgentClient) -> None:
    agent.accept()
    agent.say(Refused("layer l0: dtype differs"))
    with pytest.raises(RegistrationRefused, match="dtype differs"):
        client.wait_connected(WAIT_S)


def test_no_agent(tmp_path: Path) -> None:
    client = AgentClient(str(tmp_path / "none"), engine="p0", layout=LAYOUT)
    with pytest.raises(AgentUnavailable, match="no agent at"):
        client.wait_connected(0.01)
    with pytest.raises(AgentUnavailable):
        begin(client)
    client.close()


def test_an_agent_that_makes_no_sense_is_left_and_dialled_again(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    for slots in (1 << 32, COUNT + 1, 0):  # The arena has COUNT of them.
        agent.accept()
        assert agent._conn is not None
        answer = Registered(agent="west", slot_bytes=SLOT, slot_count=slots)
        socket.send_fds(agent._conn, [encode(answer)], [agent.arena_fd])
    connect(agent, client)
    agent.say(SlotsLeased((COUNT,)))
    connect(agent, client)
    agent.say(SlotsLeased((-1,)))
    connect(agent, client)
    begin(client)
    agent.say(SlotsLeased((0,)))
    slot = client.lease(WAIT_S)
    assert slot.index == 0
    client.return_slot(slot)


def test_reconnects_after_the_agent_restarts(agent: ScriptedAgent, client: AgentClient) -> None:
    connect(agent, client)
    begin(client)
    agent.say(SlotsLeased((2,)))
    slot = client.lease(WAIT_S)
    waiting = client.open_import(
        OpenImport("w", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    done = client.open_import(
        OpenImport("d", from_token=0, to_token=16, total_bytes=8, prompt_digest=MOCK_DIGEST)
    )
    agent.say(ImportReady("d", (Extent(0, 0, 8),)))
    (extent,) = done.future.result(WAIT_S)
    agent.hang_up()
    with pytest.raises(AgentUnavailable):
        waiting.future.result(WAIT_S)
    connect(agent, client)
    assert "went away" in str(client.stopped("x"))
    assert not client.export_slot("x", slot, [Extent(0, slot.offset, 4)])
    assert bytes(done.session.arena[extent.arena_offset : extent.arena_end]) == bytes(8)
    client.close_import(done)
    begin(client, "y")
    agent.expect(BeginExport)
    agent.expect(LeaseSlots)
    agent.say(SlotsLeased((2,)))
    client.finish_export("y")
    agent.expect(FinishExport)
    assert agent.expect(ReturnSlots) == ReturnSlots((2,)), "dead exports keep no stock"
    begin(client, "x")
    with pytest.raises(ValueError, match="already being exported"):
        begin(client, "x")


def test_connection_ends_only_when_nothing_lent_is_in_use(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    connect(agent, client)
    begin(client)
    agent.say(SlotsLeased((2,)))
    slot = client.lease(WAIT_S)
    agent.stop_sending()
    with pytest.raises(AgentUnavailable):
        client.lease(WAIT_S)
    agent.expect(BeginExport)
    agent.expect(LeaseSlots)
    agent.expect(LeaseSlots)
    client.return_slot(slot)
    agent.expect_end()


def test_lease_waiting_in_a_thread_ends_with_the_agent(
    agent: ScriptedAgent, client: AgentClient
) -> None:
    connect(agent, client)
    raised: list[Exception] = []

    def lease() -> None:
        try:
            client.lease(WAIT_S)
        except AgentUnavailable as error:
            raised.append(error)

    thread = threading.Thread(target=lease)
    thread.start()
    agent.expect(LeaseSlots)
    agent.hang_up()
    thread.join(WAIT_S)
    assert raised
