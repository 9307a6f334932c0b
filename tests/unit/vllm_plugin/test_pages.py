import numpy as np
import pytest

torch = pytest.importorskip("torch")

from prfaas.core.errors import EngineError  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier, Pages, page_view  # noqa: E402


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


def test_pages_go_out_in_the_order_asked_and_come_back() -> None:
    cache = torch.arange(4 * 6, dtype=torch.uint8).view(4, 6)
    out = torch.zeros(12, dtype=torch.uint8)
    pages = Pages.of(page_view("l", cache, 4))
    CpuCopier().gather(pages.at([3, 1]), out.data_ptr(), 6)
    assert out.tolist() == [*range(18, 24), *range(6, 12)]

    back = torch.zeros(2, 3, dtype=torch.int32)
    (target,) = Pages.of(page_view("l", back, 2)).at([1])
    ones = torch.ones(12, dtype=torch.uint8)
    CpuCopier().scatter(*(np.array([n]) for n in (ones.data_ptr(), target, 12)))
    assert back.tolist() == [[0, 0, 0], [0x01010101] * 3]
