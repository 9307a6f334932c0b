"""An adapter is its name and the weights that an engine has loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from vllm.lora.request import LoRARequest

from prfaas.vllm_plugin import adapter_identity
from prfaas.vllm_plugin.adapter_identity import AdapterIdentities


def adapter(
    folder: Path, weights: bytes, *, name: str = "poet", number: int = 1, in_place: bool = False
) -> LoRARequest:
    """Its files, of a time of their own for each content."""
    folder.mkdir(exist_ok=True)
    contents = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": weights}
    for file, content in contents.items():
        (folder / file).write_bytes(content)
        os.utime(folder / file, ns=(1, int.from_bytes(content[:4], "big")))
    return LoRARequest(name, number, str(folder), load_inplace=in_place)


def test_equal_weights_are_one_adapter_wherever_they_lie(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    here = identities.of(adapter(tmp_path / "a", b"weights"))
    assert identities.of(adapter(tmp_path / "b", b"weights")) == here
    assert identities.of(adapter(tmp_path / "b", b"weights", name="other")) != here
    assert identities.of(adapter(tmp_path / "c", b"others!")) != here
    assert identities.of(None) is None


@pytest.mark.parametrize("again", [{"number": 2}, {"in_place": True}])
def test_other_weights_of_the_same_name_and_path_are_nobody_elses(
    tmp_path: Path, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's prefix cache goes on with blocks of the earlier ones: an engine that has the later
    ones alone would be given these as its own."""
    identities, told = AdapterIdentities(), []
    monkeypatch.setattr(adapter_identity.logger, "warning", lambda *said: told.append(said))
    old = identities.of(adapter(tmp_path / "a", b"weights"))
    request = adapter(tmp_path / "a", b"WEIGHTS", **again)
    found = [identities.of(request), identities.of(request)]
    assert len({*found, old, AdapterIdentities().of(request)}) == 4
    assert len(told) == 1
    # Nor are the old ones, once they are back.
    back = adapter(tmp_path / "a", b"weights", number=3)
    assert identities.of(back) not in (old, identities.of(back))


def test_weights_of_a_path_of_their_own_are_known(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    old = identities.of(adapter(tmp_path / "a", b"weights"))
    new = adapter(tmp_path / "b", b"WEIGHTS", in_place=True)
    assert identities.of(new) == AdapterIdentities().of(adapter(tmp_path / "c", b"WEIGHTS"))
    assert identities.of(adapter(tmp_path / "a", b"weights", number=2)) == old


def test_files_that_change_under_a_loaded_adapter_are_not_what_is_computed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has the old weights still: under the name of the new ones, another engine that
    has loaded these would go on from what they never computed."""
    identities, told = AdapterIdentities(), []
    monkeypatch.setattr(adapter_identity.logger, "warning", lambda *said: told.append(said))
    old = identities.of(adapter(tmp_path / "a", b"weights"))
    new = adapter(tmp_path / "a", b"WEIGHTS")
    found = [identities.of(new), identities.of(new)]
    assert len({*found, old, AdapterIdentities().of(new)}) == 4
    assert len(told) == 1
    # The old files are back: an engine that had no room for it may have read the new ones.
    back = adapter(tmp_path / "a", b"weights")
    assert identities.of(back) != old
    assert identities.of(adapter(tmp_path / "a", b"weights", in_place=True)) != old


def test_files_that_are_written_again_as_they_were_have_not_changed(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    request = adapter(tmp_path / "a", b"weights")
    old = identities.of(request)
    os.utime(tmp_path / "a" / "adapter_config.json", ns=(1, 1))
    assert identities.of(request) == old


def test_one_that_is_gone_from_its_folder_is_no_other(tmp_path: Path) -> None:
    identities = AdapterIdentities()
    request = adapter(tmp_path / "a", b"weights")
    old = identities.of(request)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert identities.of(request) not in (old, identities.of(request))


def test_one_that_is_no_folder_here_is_told_by_its_place() -> None:
    identities = AdapterIdentities()
    one = identities.of(LoRARequest("poet", 1, "someone/poet"))
    assert one == AdapterIdentities().of(LoRARequest("poet", 7, "someone/poet"))
    assert one != identities.of(LoRARequest("poet", 2, "someone/poet-2"))


def test_one_from_a_hub_is_told_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    identities, found = AdapterIdentities(), []
    for number, commit in enumerate(("a" * 40, "b" * 40), start=1):
        model = tmp_path / "models--someone--poet"
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "adapter_config.json").write_text("{}")
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / "main").write_text(commit)
        found.append(identities.of(LoRARequest("poet", number, "someone/poet")))
    assert found[0] != found[1]
    # The first was loaded before; what was downloaded since is not what it is.
    assert identities.of(LoRARequest("poet", 1, "someone/poet")) not in found
