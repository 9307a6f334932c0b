"""Arenas are pinned and let go in the order of the calls, on a thread of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from prfaas.vllm_plugin import pinning  # noqa: E402
from prfaas.vllm_plugin.pages import address_of  # noqa: E402


@dataclass
class FakeCuda:
    """What `ArenaPinner` asks of CUDA; there is none on most machines that run this."""

    status: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def cudaHostRegister(self, address: int, length: int, flags: int) -> int:  # noqa: N802
        assert flags == 1
        self.calls.append(("pin", address))
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.calls.append(("let go", address))
        return 0

    def allow_during_capture(self) -> None:
        self.calls.append(("allow", 0))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(pinning, "cuda_driver", lambda: fake)
    return fake


def test_an_arena_is_pinned_once_and_let_go_once(cuda: FakeCuda) -> None:
    arena = memoryview(bytearray(64))
    pinner = pinning.ArenaPinner(torch.device("cuda", 0))
    pinner.pin(arena)
    pinner.let_go(arena)
    pinner.let_go(arena)
    pinner.close()
    at = address_of(arena)
    assert cuda.calls == [("allow", 0), ("pin", at), ("let go", at)]
    assert not pinner.has_pinned(arena)


def test_an_arena_stays_pinned_until_it_is_let_go(cuda: FakeCuda) -> None:
    one, other = memoryview(bytearray(64)), memoryview(bytearray(64))
    pinner = pinning.ArenaPinner(torch.device("cuda", 0))
    pinner.pin(one)
    pinner.pin(other)
    pinner.let_go(one)
    pinner.close()
    assert (pinner.has_pinned(one), pinner.has_pinned(other)) == (False, True)


def test_what_cannot_be_pinned_is_not_let_go(cuda: FakeCuda) -> None:
    cuda.status = 2
    arena = memoryview(bytearray(64))
    pinner = pinning.ArenaPinner(torch.device("cuda", 0))
    pinner.pin(arena)
    pinner.let_go(arena)
    pinner.close()
    assert not pinner.has_pinned(arena)
    assert [what for what, _ in cuda.calls] == ["allow", "pin"]
