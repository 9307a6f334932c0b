"""An adapter is its name and its weights."""

from __future__ import annotations

import os
from pathlib import Path

from vllm.lora.request import LoRARequest

from prfaas.vllm_plugin.adapter_identity import AdapterIdentities


def adapter(folder: Path, weights: bytes, *, name: str = "poet") -> LoRARequest:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return LoRARequest(name, 1, str(folder))


def test_equal_weights_are_one_adapter_wherever_they_lie(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    here = identities.of(adapter(tmp_path / "a", b"weights"))
    assert identities.of(adapter(tmp_path / "b", b"weights")) == here
    assert identities.of(adapter(tmp_path / "b", b"weights", name="other")) != here
    assert identities.of(adapter(tmp_path / "c", b"others!")) != here
    assert identities.of(None) is None


def test_weights_that_change_are_read_again(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    before = identities.of(adapter(tmp_path / "a", b"weights"))
    request = adapter(tmp_path / "a", b"WEIGHTS")
    os.utime(tmp_path / "a" / "adapter_model.safetensors", ns=(1, 1))
    assert identities.of(request) != before


def test_one_that_is_no_folder_here_is_told_by_its_place() -> None:
    identities = AdapterIdentities()
    one = identities.of(LoRARequest("poet", 1, "someone/poet"))
    assert one != identities.of(LoRARequest("poet", 1, "someone/poet-2"))
