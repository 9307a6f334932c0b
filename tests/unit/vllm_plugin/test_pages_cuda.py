"""The GPU side of page copies. Runs wherever torch sees a CUDA device; needs no vLLM."""

import mmap
import threading

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from prfaas.vllm_plugin.pages import CudaCopier, page_view  # noqa: E402

DEVICE = torch.device("cuda", torch.cuda.device_count() - 1)
torch.cuda.set_device(DEVICE)
PAGE = 256 * 1024


@pytest.fixture
def arena() -> memoryview:
    return memoryview(mmap.mmap(-1, 64 * 1024 * 1024))


@pytest.fixture
def copier(arena: memoryview) -> CudaCopier:
    """Its arena is adopted as a load does it: by a thread that knows of device 0 only."""
    made = CudaCopier(DEVICE)
    thread = threading.Thread(target=made.adopt_arena, args=(arena,))
    thread.start()
    thread.join()
    return made


def gathered(copier: CudaCopier) -> None:
    done = threading.Event()
    copier.when_gathered(done.set)
    assert done.wait(30)


def test_the_arena_is_pinned(copier: CudaCopier, arena: memoryview) -> None:
    assert torch.frombuffer(arena, dtype=torch.uint8).is_pinned()


def test_pages_go_out_and_come_back(copier: CudaCopier, arena: memoryview) -> None:
    cache = torch.randint(0, 256, (64, PAGE), dtype=torch.uint8, device=DEVICE)
    pages = page_view("l", cache, 64)
    ids = [5, 63, 1, 8]
    host = torch.frombuffer(arena, dtype=torch.uint8)
    copier.gather(pages, ids, host[: len(ids) * PAGE])
    copier.gather_part(pages[7][:1000], host[len(ids) * PAGE :][:1000])
    gathered(copier)
    for place, block in enumerate(ids):
        assert torch.equal(host[place * PAGE :][:PAGE], cache[block].cpu())
    assert torch.equal(host[len(ids) * PAGE :][:1000], cache[7][:1000].cpu())

    other = torch.zeros_like(cache)
    for place, block in enumerate(ids):
        copier.scatter(host[place * PAGE :][:PAGE], page_view("l", other, 64)[block])
    copier.wait_scattered()
    assert torch.equal(other[ids], cache[ids])


def test_copies_see_what_the_model_wrote_before_and_not_after(
    copier: CudaCopier, arena: memoryview
) -> None:
    """The model's stream is kept busy; copies wait for it, the next step for copies."""
    cache = torch.zeros(64, PAGE, dtype=torch.uint8, device=DEVICE)
    pages = page_view("l", cache, 64)
    host = torch.frombuffer(arena, dtype=torch.uint8)
    for value in range(1, 30):
        torch.cuda._sleep(2_000_000)
        cache.fill_(value)
        copier.gather(pages, list(range(64)), host[: 64 * PAGE])
        copier.hold_model()
        cache.fill_(255)
        gathered(copier)
        assert bool((host[: 64 * PAGE] == value).all()), value


def test_a_load_into_a_freed_block_comes_after_the_copy_out(
    copier: CudaCopier, arena: memoryview
) -> None:
    """The copy is held up by the model's stream, the load by the copy alone."""
    cache = torch.ones(4, PAGE, dtype=torch.uint8, device=DEVICE)
    pages = page_view("l", cache, 4)
    host = torch.frombuffer(arena, dtype=torch.uint8)
    torch.cuda.synchronize(DEVICE)
    torch.cuda._sleep(200_000_000)
    copier.gather(pages, [1], host[:PAGE])
    copier.hold_model()
    copier.scatter(host[PAGE : 2 * PAGE], pages[1])
    gathered(copier)
    copier.wait_scattered()
    assert bool((host[:PAGE] == 1).all())
    assert bool((cache[1] == 0).all())


def test_the_host_does_not_wait_for_the_gpu(copier: CudaCopier, arena: memoryview) -> None:
    cache = torch.zeros(64, PAGE, dtype=torch.uint8, device=DEVICE)
    pages = page_view("l", cache, 64)
    host = torch.frombuffer(arena, dtype=torch.uint8)
    copier.gather(pages, [1], host[:PAGE])
    gathered(copier)
    torch.cuda._sleep(2_000_000_000)
    busy = torch.cuda.Event()
    busy.record()
    announced = threading.Event()
    copier.gather(pages, [1, 2], host[: 2 * PAGE])
    copier.when_gathered(announced.set)
    assert not busy.query(), "gather returned only after the model's stream was done"
    assert not announced.is_set()
    assert announced.wait(30)


def test_a_new_arena_is_pinned_in_place_of_the_old(copier: CudaCopier, arena: memoryview) -> None:
    fresh = memoryview(mmap.mmap(-1, 1024 * 1024))
    copier.adopt_arena(fresh)
    assert torch.frombuffer(fresh, dtype=torch.uint8).is_pinned()
    assert not torch.frombuffer(arena, dtype=torch.uint8).is_pinned()
    copier.close()
