"""Cached prefixes from an arena into a cache: every page that vLLM reads, and no other."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from prfaas.core.errors import EngineError  # noqa: E402
from prfaas.core.extents import Extent  # noqa: E402
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout  # noqa: E402
from prfaas.core.transfer_plan import TransferPlan  # noqa: E402
from prfaas.engine_socket.errors import TransferUnusable  # noqa: E402
from prfaas.engine_socket.messages import LoadedPart  # noqa: E402
from prfaas.vllm_plugin.cached import CachedLoad, CachedPages  # noqa: E402
from prfaas.vllm_plugin.metadata import CachedPart, ImportStart  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier, Pages  # noqa: E402

BLOCK, WINDOW, BLOCKS = 4, 6, 64


def layer(name: str, index: int, size: int) -> LayerLayout:
    return LayerLayout(name=name, index=index, page_bytes=size, dtype="uint8", shape=(size,))


LAYOUT = KvLayout(
    model="m",
    groups=(
        KvGroup("full_attention", BLOCK, (layer("fa.1", 1, 12), layer("fa.3", 3, 12))),
        KvGroup("recurrent", BLOCK, (layer("gdn.0", 0, 40), layer("gdn.4", 4, 40))),
        KvGroup("sliding_window", BLOCK, (layer("swa.5", 5, 10),), window_tokens=WINDOW),
    ),
)


def caches(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        one.name: torch.randint(
            0, 256, (BLOCKS, one.page_bytes), dtype=torch.uint8, generator=generator
        )
        for group in LAYOUT.groups
        for one in group.layers
    }


def table(first: int, group: int, count: int) -> list[int]:
    return [first + 16 * group + block for block in range(count)]


def cached_load(source: dict[str, Any], parts: list[tuple[int, int]]) -> CachedLoad:
    """As the agent answers: transfers of these tokens, each in one piece, some bytes apart."""
    arena, found = bytearray(), []
    for start, end in parts:
        plan = TransferPlan(LAYOUT, from_token=start, to_token=end)
        arena += bytes(7)
        begin = len(arena)
        for span in plan.spans.values():
            blocks = table(1, span.group, span.end_block)[span.first_block :]
            for block in blocks:
                arena += bytes(source[span.layer.name][block].tolist())
        found.append(LoadedPart(start, end, (Extent(0, begin, plan.total_bytes),)))
    future: Future[Any] = Future()
    future.set_result(tuple(found))
    load: Any = SimpleNamespace(session=SimpleNamespace(arena=memoryview(arena)), future=future)
    return CachedLoad(CachedPart(parts[0][1] // BLOCK * BLOCK, BLOCK, ()), {0: load})


def start(
    end: int, local: int, *, transfer: str | None = None, visible_from: int = 0
) -> ImportStart:
    blocks = -(-end // BLOCK) + 1
    tables = tuple(table(3, group, blocks) for group in range(3))
    for block in range(visible_from):
        tables[2][block] = 0
    return ImportStart("r", transfer, "", end, end, local, tables)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    tail=st.integers(0, BLOCK - 1),
    local=st.integers(0, 11),
    transfer=st.sampled_from([None, "t"]),
)
def test_parts_together_fill_what_vllm_will_read(
    sizes: list[int], tail: int, local: int, transfer: str | None
) -> None:
    ends = [BLOCK * sum(sizes[: n + 1]) for n in range(len(sizes))]
    end = ends[-1]
    local = min(local * BLOCK, end - BLOCK)
    # Where a window's edge lies is a matter of the end; inside a block it may lack its first block.
    visible = max(0, end - WINDOW + 1) // BLOCK
    parts = list(zip([0, *ends], ends, strict=False))[::-1]
    tail = tail if end + tail - WINDOW + 1 < (visible + 1) * BLOCK else 0
    parts[0] = parts[0][0], end + tail
    source, target = caches(1), caches(2)
    wanted = {name: pages.clone() for name, pages in target.items()}
    for number, group in enumerate(LAYOUT.groups):
        first = local // BLOCK
        if group.kind == "recurrent":
            first = end // BLOCK - 1 if transfer is None else end // BLOCK
        if group.kind == "sliding_window":
            first = max(first, visible)
        for one in group.layers:
            for block in range(first, end // BLOCK):
                wanted[one.name][3 + 16 * number + block] = source[one.name][
                    1 + 16 * number + block
                ]
    pages = {name: Pages.of(view) for name, view in target.items()}
    item = start(end, local, transfer=transfer, visible_from=visible)
    CachedPages(LAYOUT, pages, CpuCopier()).copy(item, cached_load(source, parts))
    for name, found in target.items():
        assert torch.equal(found, wanted[name]), name


def pages_of(target: dict[str, Any]) -> CachedPages:
    views = {name: Pages.of(view) for name, view in target.items()}
    return CachedPages(LAYOUT, views, CpuCopier())


def test_a_block_that_no_part_has_fails_the_load() -> None:
    load = cached_load(caches(1), [(8, 16)])
    with pytest.raises(EngineError, match=r"fa.1: block 1 is not in what is cached"):
        pages_of(caches(2)).copy(start(16, 4, visible_from=2), load)


def test_a_window_that_no_part_has_fails_the_load() -> None:
    """The first part was read to its middle alone: its window is that of another token."""
    load = cached_load(caches(1), [(0, 16)])
    with pytest.raises(EngineError, match=r"swa.5: block 1 is not in what is cached"):
        pages_of(caches(2)).copy(start(16, 0, visible_from=1), load)


def test_a_block_without_a_place_fails_the_load() -> None:
    item = start(16, 0, visible_from=2)
    item.tables[0][2] = 0
    with pytest.raises(EngineError, match=r"fa.1: a block has no place"):
        pages_of(caches(2)).copy(item, cached_load(caches(1), [(0, 16)]))


def test_bytes_of_another_size_fail_the_load() -> None:
    load = cached_load(caches(1), [(0, 16)])
    (opened,) = load.loads.values()
    (part,) = opened.future.result()
    short: Future[Any] = Future()
    short.set_result((LoadedPart(0, 12, part.extents),))
    opened.future = short
    with pytest.raises(EngineError, match="bytes instead of"):
        pages_of(caches(2)).copy(start(16, 0, visible_from=2), load)


def test_what_the_agent_does_not_have_fails_the_load() -> None:
    load = cached_load(caches(1), [(0, 16)])
    failed: Future[Any] = Future()
    failed.set_exception(TransferUnusable("tokens up to 16 are not cached here"))
    next(iter(load.loads.values())).future = failed
    with pytest.raises(TransferUnusable, match="not cached here"):
        pages_of(caches(2)).copy(start(16, 0), load)
