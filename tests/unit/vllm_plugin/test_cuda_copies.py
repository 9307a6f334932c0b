"""The GPU side of page copies. Runs wherever torch sees a CUDA device; needs no vLLM."""

import mmap
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from prfaas.vllm_plugin.cuda_copies import CudaCopier  # noqa: E402
from prfaas.vllm_plugin.pages import Pages, address_of, page_view  # noqa: E402

DEVICE = torch.device("cuda", torch.cuda.device_count() - 1)
torch.cuda.set_device(DEVICE)
PAGE = 256 * 1024
COUNT = 64
ARENA_BYTES = 64 * 1024 * 1024


def is_pinned(arena: memoryview) -> bool:
    return bool(torch.frombuffer(arena, dtype=torch.uint8).is_pinned())


def wait_until_pinned(arena: memoryview, wanted: bool = True) -> None:
    until = time.monotonic() + 30
    while is_pinned(arena) is not wanted:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def arena() -> memoryview:
    return memoryview(mmap.mmap(-1, ARENA_BYTES))


@pytest.fixture
def copier(arena: memoryview) -> CudaCopier:
    """Its arena is opened as a client does it: by a thread that knows of device 0 only."""
    made = CudaCopier(DEVICE)
    thread = threading.Thread(target=made.arena_opened, args=(arena,))
    thread.start()
    thread.join()
    wait_until_pinned(arena)
    return made


def gather(copier: CudaCopier, cache: torch.Tensor, ids: list[int], arena: memoryview) -> None:
    pages = Pages.of(page_view("l", cache, COUNT))
    copier.gather(pages.at(ids), address_of(arena), PAGE)
    copier.submit()


def scatter(copier: CudaCopier, cache: torch.Tensor, ids: list[int], arena: memoryview) -> None:
    """The arena's first bytes to these pages; called from a thread that has chosen no device."""
    targets = np.array(Pages.of(page_view("l", cache, COUNT)).at(ids))
    sources = address_of(arena) + PAGE * np.arange(len(ids))
    thread = threading.Thread(
        target=copier.scatter, args=(sources, targets, np.full(len(ids), PAGE))
    )
    thread.start()
    thread.join()


def gathered(copier: CudaCopier) -> None:
    done = threading.Event()
    copier.when_gathered(done.set)
    copier.submit()
    assert done.wait(30)


def arena_of_either_kind(copier: CudaCopier, arena: memoryview, pinned: bool) -> memoryview:
    return arena if pinned else memoryview(mmap.mmap(-1, ARENA_BYTES))


@pytest.mark.parametrize("pinned", [True, False])
def test_pages_go_out_and_come_back(copier: CudaCopier, arena: memoryview, pinned: bool) -> None:
    """Also while the arena is not pinned yet."""
    arena = arena_of_either_kind(copier, arena, pinned)
    cache = torch.randint(0, 256, (COUNT, PAGE), dtype=torch.uint8, device=DEVICE)
    ids = [5, 63, 1, 8]
    host = torch.frombuffer(arena, dtype=torch.uint8)
    gather(copier, cache, ids, arena)
    part = Pages.of(page_view("l", cache, COUNT)).at([7])[0] + 100
    copier.gather([part], address_of(arena) + len(ids) * PAGE, 1000)
    gathered(copier)
    for place, block in enumerate(ids):
        assert torch.equal(host[place * PAGE :][:PAGE], cache[block].cpu())
    assert torch.equal(host[len(ids) * PAGE :][:1000], cache[7][100:1100].cpu())

    other = torch.zeros_like(cache)
    scatter(copier, other, ids, arena)
    copier.wait_scattered()
    assert torch.equal(other[ids], cache[ids])
    assert not other[[n for n in range(COUNT) if n not in ids]].any()


def test_copies_see_what_the_model_wrote_before_and_not_after(
    copier: CudaCopier, arena: memoryview
) -> None:
    """The model's stream is kept busy; copies wait for it, the next step for copies."""
    cache = torch.zeros(COUNT, PAGE, dtype=torch.uint8, device=DEVICE)
    host = torch.frombuffer(arena, dtype=torch.uint8)
    for value in range(1, 30):
        torch.cuda._sleep(2_000_000)
        cache.fill_(value)
        gather(copier, cache, list(range(COUNT)), arena)
        copier.hold_model()
        cache.fill_(255)
        gathered(copier)
        assert bool((host[: COUNT * PAGE] == value).all()), value


def test_a_load_into_a_freed_block_comes_after_the_copy_out(
    copier: CudaCopier, arena: memoryview
) -> None:
    """The copy is held up by the model's stream, the load by the copy alone."""
    cache = torch.ones(COUNT, PAGE, dtype=torch.uint8, device=DEVICE)
    torch.cuda.synchronize(DEVICE)
    torch.cuda._sleep(200_000_000)
    gather(copier, cache, [1], arena)
    copier.hold_model()
    scatter(copier, cache, [1], arena[PAGE:])
    gathered(copier)
    copier.wait_scattered()
    assert bool((torch.frombuffer(arena, dtype=torch.uint8)[:PAGE] == 1).all())
    assert bool((cache[1] == 0).all())


def test_the_host_does_not_wait_for_the_gpu(copier: CudaCopier, arena: memoryview) -> None:
    cache = torch.zeros(COUNT, PAGE, dtype=torch.uint8, device=DEVICE)
    gather(copier, cache, [1], arena)
    gathered(copier)
    torch.cuda._sleep(2_000_000_000)
    busy = torch.cuda.Event()
    busy.record()
    announced = threading.Event()
    gather(copier, cache, [1, 2], arena)
    copier.when_gathered(announced.set)
    copier.submit()
    assert not busy.query(), "submit returned only after the model's stream was done"
    assert not announced.is_set()
    assert announced.wait(30)


def test_an_arena_is_let_go_when_nothing_uses_it_any_more(
    copier: CudaCopier, arena: memoryview
) -> None:
    fresh = memoryview(mmap.mmap(-1, 1024 * 1024))
    copier.arena_opened(fresh)
    wait_until_pinned(fresh)
    assert is_pinned(arena)
    copier.arena_unused(arena)
    copier.arena_unused(arena)
    wait_until_pinned(arena, False)
    assert is_pinned(fresh)
    copier.close()


def test_pinning_disturbs_no_graph_that_is_being_captured(
    copier: CudaCopier, arena: memoryview
) -> None:
    """vLLM captures its graphs at start-up, about when the arena becomes known."""
    fresh = memoryview(mmap.mmap(-1, ARENA_BYTES))
    x = torch.zeros(16, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x += 1
        copier.arena_opened(fresh)
        until = time.monotonic() + 30
        while not copier._pinner.has_pinned(fresh):
            assert time.monotonic() < until
        x += 1
    graph.replay()
    torch.cuda.synchronize(DEVICE)
    assert x.tolist() == [2.0] * 16
    assert is_pinned(fresh)
