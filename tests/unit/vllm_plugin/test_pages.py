import pytest

torch = pytest.importorskip("torch")

from prfaas.core.errors import EngineError  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier, page_view  # noqa: E402


def test_a_block_is_a_row_of_bytes() -> None:
    cache = torch.arange(3 * 2 * 4, dtype=torch.int16).view(3, 2, 4)
    pages = page_view("l", cache, 3)
    assert pages.shape == (3, 16)
    assert bytes(pages[1].tolist()) == cache[1].numpy().tobytes()


def test_kernel_blocks_of_a_block_are_one_page() -> None:
    cache = torch.arange(6 * 4, dtype=torch.uint8).view(6, 4)
    assert page_view("l", cache, 3)[2].tolist() == list(range(16, 24))


def test_padding_between_blocks_is_not_part_of_the_page() -> None:
    cache = torch.zeros(4, 10, dtype=torch.uint8)[:, :7]
    assert page_view("l", cache, 4).shape == (4, 7)


def test_a_permuted_page_is_taken_as_it_lies() -> None:
    cache = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4).transpose(1, 2)
    assert page_view("l", cache, 2)[0].tolist() == list(range(12))


def test_a_page_with_holes_is_refused() -> None:
    with pytest.raises(EngineError, match="do not lie together"):
        page_view("l", torch.zeros(2, 4, 6, dtype=torch.uint8)[:, :, :3], 2)


def test_writing_a_page_writes_the_cache() -> None:
    cache = torch.zeros(2, 3, dtype=torch.int32)
    CpuCopier().scatter(torch.full((12,), 1, dtype=torch.uint8), page_view("l", cache, 2)[1])
    assert cache.tolist() == [[0, 0, 0], [0x01010101] * 3]
