"""Pages out of one cache, through an arena, into another: every byte, whatever the cut."""

import time
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from prfaas.core.errors import CapacityError  # noqa: E402
from prfaas.core.handoff import ExportParams  # noqa: E402
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout  # noqa: E402
from prfaas.core.transfer_plan import TransferPlan  # noqa: E402
from prfaas.engine_socket.errors import TransferUnusable  # noqa: E402
from prfaas.testing.loopback_agent_client import (  # noqa: E402
    LoopbackAgentClient,
    LoopbackImport,
    LoopbackSlot,
)
from prfaas.testing.mock_engine_rank import MOCK_DIGEST  # noqa: E402
from prfaas.vllm_plugin.export import Exporter  # noqa: E402
from prfaas.vllm_plugin.load import Importer, LoadResults  # noqa: E402
from prfaas.vllm_plugin.metadata import THIS_AGENT, ExportStep, ImportStart  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier  # noqa: E402

BLOCK = 4
LAYOUT = KvLayout(
    model="m",
    groups=(
        KvGroup(
            kind="full_attention",
            block_tokens=BLOCK,
            layers=tuple(
                LayerLayout(name=f"fa.{i}", index=i, page_bytes=12, dtype="uint8", shape=(12,))
                for i in (1, 3)
            ),
        ),
        KvGroup(
            kind="recurrent",
            block_tokens=BLOCK,
            layers=tuple(
                LayerLayout(name=f"gdn.{i}", index=i, page_bytes=40, dtype="int8", shape=(40,))
                for i in (0, 2, 4)
            ),
        ),
        KvGroup(
            kind="sliding_window",
            block_tokens=BLOCK,
            window_tokens=6,
            layers=(LayerLayout(name="swa.5", index=5, page_bytes=10, dtype="uint8", shape=(10,)),),
        ),
    ),
)
BLOCKS = 64
HOOKS = ("fa.1", "fa.3", "swa.5")


def caches(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: torch.randint(
            0, 256, (BLOCKS, layer.page_bytes), dtype=torch.uint8, generator=generator
        )
        for group in LAYOUT.groups
        for layer in group.layers
    }


def tables(first_block: int, count: int) -> tuple[list[int], ...]:
    return tuple([first_block + g * 16 + i for i in range(count)] for g in range(3))


def params(from_token: int, to_token: int) -> ExportParams:
    return ExportParams(
        transfer_id="t",
        destination="west",
        readers=("w",),
        from_token=from_token,
        to_token=to_token,
    )


class LateCopier(CpuCopier):
    """Like a GPU's: copies begin with `submit`, and what waits for them is told after it."""

    def __init__(self) -> None:
        self.noted: list[tuple[list[int], int, int]] = []
        self.then: list[Callable[[], object]] = []

    def gather(self, sources: list[int], target: int, size: int) -> None:
        self.noted.append((sources, target, size))

    def when_gathered(self, then: Callable[[], object]) -> None:
        self.then.append(then)

    def submit(self, *, at_least_bytes: int = 0) -> None:
        if sum(len(sources) * size for sources, _, size in self.noted) < at_least_bytes:
            return
        for sources, target, size in self.noted:
            super().gather(sources, target, size)
        for then in self.then:
            then()
        self.noted, self.then = [], []


class Rank:
    """One rank's exporter and importer over a shared loopback client."""

    def __init__(
        self, client: LoopbackAgentClient, seed: int, copier: CpuCopier | None = None
    ) -> None:
        self.pages = caches(seed)
        parts = (client, LAYOUT, self.pages, copier or CpuCopier())
        self.exporter, self.importer = Exporter(*parts), Importer(*parts)

    def prefill(
        self, cuts: list[int], from_token: int, to_token: int, hooks: Sequence[str] = HOOKS
    ) -> None:
        first = from_token
        last_block_end = to_token // BLOCK * BLOCK
        for end in cuts:
            states_at = tuple(at for at in sorted({last_block_end, to_token}) if first < at <= end)
            final = end == to_token
            step = ExportStep(
                "r",
                params(from_token, to_token),
                MOCK_DIGEST,
                first,
                end,
                final,
                tables(1, 9),
                states_at,
            )
            for name in hooks:
                self.exporter.layer_computed(step, name)
            self.exporter.step_ended([step])
            first = end

    def load(self, from_token: int, to_token: int, local: int) -> LoadResults:
        self.importer.start(
            ImportStart("r", "t", MOCK_DIGEST, from_token, to_token, local, tables(3, 9))
        )
        return self.reported()

    def reported(self) -> LoadResults:
        until = time.monotonic() + 10
        while not (results := self.importer.take_results(set())).finished:
            assert time.monotonic() < until, "the load was never reported"
        return results


KEPT_AT = 60
"""Where the state at the last block's end goes."""


def expected(before: dict, source: dict, local: int, to_token: int, *, kept: bool) -> dict:
    """The receiver's cache after a load: the missing blocks, and nothing else, are replaced."""
    after = {name: pages.clone() for name, pages in before.items()}
    for number, group in enumerate(LAYOUT.groups):
        end = -(-to_token // BLOCK)
        first = end - 1 if group.kind == "recurrent" else local // BLOCK
        if kept and group.kind == "recurrent":
            for layer in group.layers:
                after[layer.name][KEPT_AT] = source[layer.name][tables(1, 9)[number][end - 2]]
        if group.kind == "sliding_window":
            first = max(first, (to_token - 6 + 1) // BLOCK)
        for layer in group.layers:
            for block in range(first, end):
                after[layer.name][tables(3, 9)[number][block]] = source[layer.name][
                    tables(1, 9)[number][block]
                ]
    return after


@settings(max_examples=60)
@given(
    blocks=st.integers(2, 8),
    tail=st.integers(0, BLOCK - 1),
    kept=st.booleans(),
    skipped=st.integers(0, 3),
    extra_local=st.integers(0, 2),
    cuts=st.sets(st.integers(1, 31)),
    slot_bytes=st.sampled_from([8, 16, 40, 64, 1000]),
    hooks=st.just(HOOKS) | st.lists(st.sampled_from([*HOOKS, "shares.fa.3"]), max_size=6),
    copier=st.sampled_from([CpuCopier, LateCopier]),
)
def test_every_page_arrives_once_and_no_other_is_touched(
    blocks: int,
    tail: int,
    kept: bool,
    skipped: int,
    extra_local: int,
    cuts: set[int],
    slot_bytes: int,
    hooks: Sequence[str],
    copier: type[CpuCopier],
) -> None:
    """Whichever layers call their hook, in whatever order, and however often: a model's own
    attention and full CUDA graphs call none, draft layers several times, and a layer that shares
    another's cache is in no group. With a tail the hand-off is exact: it ends inside a block, and
    the state at the last block's end comes too, for which the receiver may have a place."""
    last_block_end = blocks * BLOCK
    to_token = last_block_end + tail
    from_token = min(skipped, blocks - 1) * BLOCK
    local = min(from_token + extra_local * BLOCK, last_block_end - BLOCK)
    kept = kept and tail > 0
    client = LoopbackAgentClient(slot_bytes=slot_bytes, slots=400)
    sender, receiver = Rank(client, 1, copier()), Rank(client, 2)
    before = {name: pages.clone() for name, pages in receiver.pages.items()}
    within = {c for c in cuts if from_token < c < to_token}
    ends = sorted(within | {last_block_end, to_token})
    sender.prefill(ends, from_token, to_token, hooks)
    assert client.finished == {"t"}
    assert sum(extent.length for extent in client.extents["t"]) == client.totals["t"]

    places = {1: KEPT_AT} if kept else {}
    start = ImportStart("r", "t", MOCK_DIGEST, from_token, to_token, local, tables(3, 9), places)
    for block in range(max(0, (to_token - 6 + 1) // BLOCK)):
        start.tables[2][block] = 0
    receiver.importer.start(start)
    assert not receiver.reported().failed
    wanted = expected(before, sender.pages, local, to_token, kept=kept)
    for name, pages in receiver.pages.items():
        assert torch.equal(pages, wanted[name]), name
    assert client.closed == 1
    sender.importer.close()
    receiver.importer.close()


def test_pages_leave_from_the_hook_and_states_from_the_next_one_above() -> None:
    client = LoopbackAgentClient(slot_bytes=8, slots=100)
    exporter = Rank(client, 1).exporter
    step = ExportStep("r", params(0, 8), MOCK_DIGEST, 0, 8, True, tables(1, 9), (8,))
    spans = TransferPlan(LAYOUT, from_token=0, to_token=8).spans
    exporter.layer_computed(step, "fa.3")
    below = [name for name in spans if any(
        spans[name].flat_offset <= flat < spans[name].flat_offset + spans[name].length
        for flat, _, _ in client.extents["t"]
    )]  # fmt: skip
    assert below == ["gdn.0", "gdn.2", "fa.3"]


def test_a_missing_extent_fails_the_load_and_says_where() -> None:
    client = LoopbackAgentClient(slot_bytes=64, slots=100)
    rank = Rank(client, 1)
    rank.prefill([16], 0, 16)
    client.extents["t"].sort()
    del client.extents["t"][1]
    assert rank.load(0, 16, 0).failed == {"r"}


def test_an_unknown_transfer_fails_the_load() -> None:
    assert Rank(LoopbackAgentClient(slot_bytes=64, slots=1), 1).load(0, 16, 0).failed == {"r"}


def test_an_aborted_request_that_waits_for_its_load_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM keeps its blocks until then."""
    client = LoopbackAgentClient(slot_bytes=64, slots=1)
    waiting = LoopbackImport(client.session)
    monkeypatch.setattr(client, "open_import", lambda *_, **__: waiting)
    rank = Rank(client, 1)
    rank.importer.start(ImportStart("r", "t", MOCK_DIGEST, 0, 16, 0, tables(3, 9)))
    assert not rank.importer.take_results({"another"}).finished
    rank.importer.take_results({"r"})
    results = rank.reported()
    assert results.finished == results.failed == {"r"}
    assert client.closed == 1


def test_what_is_answered_when_the_engine_ends_is_no_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = LoopbackAgentClient(slot_bytes=64, slots=1)
    waiting = LoopbackImport(client.session)
    monkeypatch.setattr(client, "open_import", lambda *_, **__: waiting)
    rank = Rank(client, 1)
    rank.importer.start(ImportStart("r", "t", MOCK_DIGEST, 0, 16, 0, tables(3, 9)))
    rank.importer.close()
    waiting.future.set_exception(TransferUnusable("the agent is gone"))  # as `AgentClient.close`
    assert not caplog.records


def test_a_block_vllm_reads_but_the_transfer_lacks_fails_the_load() -> None:
    client = LoopbackAgentClient(slot_bytes=64, slots=100)
    rank = Rank(client, 1)
    rank.prefill([16], 0, 16)
    # A sliding-window block outside the window is reserved, not null: it would stay unwritten.
    assert rank.load(0, 16, 0).failed == {"r"}


@pytest.mark.parametrize(("group", "block"), [(0, 1), (1, 3), (2, 3)])
def test_a_block_without_a_place_fails_the_load(group: int, block: int) -> None:
    """vLLM would read it: only before a sliding window does it reserve none."""
    client = LoopbackAgentClient(slot_bytes=64, slots=100)
    rank = Rank(client, 1)
    rank.prefill([16], 0, 16)
    start = ImportStart("r", "t", MOCK_DIGEST, 0, 16, 0, tables(3, 9))
    start.tables[2][:2] = [0, 0]
    start.tables[group][block] = 0
    rank.importer.start(start)
    assert rank.reported().failed == {"r"}


def test_a_failed_load_is_reported_when_its_copies_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would land in blocks that vLLM has given to another request."""
    events: list[str] = []

    class Copier(CpuCopier):
        def scatter(self, *_: object) -> None:
            events.append("queued")

        def wait_scattered(self) -> None:
            events.append("done")

    client = LoopbackAgentClient(slot_bytes=64, slots=100)
    monkeypatch.setattr(client, "close_import", lambda _: events.append("closed"))
    rank = Rank(client, 1, Copier())
    rank.prefill([16], 0, 16)
    assert rank.load(0, 16, 0).failed == {"r"}
    assert events[0] == "queued"
    assert events[-2:] == ["done", "closed"]


def test_without_slots_the_export_is_given_up_and_prefill_goes_on() -> None:
    client = LoopbackAgentClient(slot_bytes=16, slots=2)
    rank = Rank(client, 1)
    rank.prefill([8, 16], 0, 16)
    assert "no free slot" in client.aborted["t"]
    assert "no free slot" in rank.exporter.take_failures()["r"]
    assert rank.exporter.take_failures() == {}
    assert not client.finished


def test_slots_that_only_wait_to_be_copied_are_copied_when_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line frees them once they have left: waiting for that without copying would not end."""
    client = LoopbackAgentClient(slot_bytes=16, slots=2)
    sent: list[int] = []

    def export_slot(transfer_id: str, slot: LoopbackSlot, ranges: object) -> bool:
        sent.append(slot.index)
        client.return_slot(slot)
        return True

    monkeypatch.setattr(client, "export_slot", export_slot)
    rank = Rank(client, 1, LateCopier())
    rank.prefill([16], 0, 16)
    assert client.finished == {"t"}
    assert len(sent) > 2


@pytest.mark.parametrize(("each_s", "kept"), [(0.01, True), (0.04, False)])
def test_an_answer_waits_for_slots_so_long_in_all_whatever_copying_takes(
    each_s: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, now = LoopbackAgentClient(slot_bytes=64, slots=100), 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def lease(timeout_s: float, *, transfer_id: str) -> LoopbackSlot:
        """None is there at once."""
        if timeout_s < each_s:
            raise CapacityError("no free slot")
        passes(each_s)
        return LoopbackAgentClient.lease(client, timeout_s, transfer_id=transfer_id)

    class SlowCopier(CpuCopier):
        def gather(self, sources: list[int], target: int, size: int) -> None:
            passes(1.0)
            super().gather(sources, target, size)

    monkeypatch.setattr("prfaas.vllm_plugin.export.time.monotonic", lambda: now)
    monkeypatch.setattr(client, "lease", lease)
    rank = Rank(client, 1, SlowCopier())
    wanted = msgspec.structs.replace(params(0, 16), destination=THIS_AGENT)
    step = ExportStep("r", wanted, MOCK_DIGEST, 0, 16, True, tables(1, 9), (16,))
    rank.exporter.step_ended([step])
    assert len(client.extents["t"]) >= 3
    assert (client.finished == {"t"}) is kept
    assert ("t" in client.aborted) is not kept


def test_an_export_the_agent_stopped_is_not_continued() -> None:
    client = LoopbackAgentClient(slot_bytes=64, slots=100)
    rank = Rank(client, 1)
    client.stop_reasons["t"] = "the receiver refused it"
    rank.prefill([8, 16], 0, 16)
    assert client.aborted == {"t": "the receiver refused it"}
    assert sorted(client.free) == list(range(100))
