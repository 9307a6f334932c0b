"""What stands for the weights in the names of prefixes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from huggingface_hub import constants

from prfaas.vllm_plugin.prefix_names import PrefixNames, weights_identity

BLOCK = 16


def identity(model: Path | str, revision: str | None = None) -> str:
    config: Any = SimpleNamespace(model=str(model), revision=revision)
    return weights_identity(config)


def folder(place: Path, weights: bytes, name: str = "model.safetensors") -> Path:
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(weights)
    return place


def test_equal_weights_are_one_model_wherever_they_lie(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 4096
    one = identity(folder(tmp_path / "a", weights))
    assert identity(folder(tmp_path / "b", weights)) == one
    assert identity(folder(tmp_path / "c", weights + b"x")) != one


def test_a_part_that_was_trained_on_is_another_model(tmp_path: Path) -> None:
    """One in 500 of the bytes, wherever: an adapter that was merged into some of the layers."""
    size = 8 << 20
    one, part = identity(folder(tmp_path / "a", bytes(size))), size // 500
    for start in range(0, size - part, size // 7):
        changed = bytes(start) + b"x" * part + bytes(size - start - part)
        assert identity(folder(tmp_path / "b", changed)) != one


@pytest.mark.parametrize("name", ["m.gguf", "m.pth", "m.tensors", "m.bin", "m.pt"])
def test_weights_of_every_form_are_looked_at(tmp_path: Path, name: str) -> None:
    one = identity(folder(tmp_path / "a", b"weights", name))
    assert identity(folder(tmp_path / "a", b"WEIGHTS", name)) != one


def test_a_single_file_is_looked_at(tmp_path: Path) -> None:
    file = folder(tmp_path, b"weights", "m.gguf") / "m.gguf"
    one = identity(file)
    file.write_bytes(b"WEIGHTS")
    assert identity(file) != one


def test_a_model_from_a_hub_is_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its name stood for when an engine began is not what it stands for when it comes back."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found: list[str] = []
    model = tmp_path / "models--acme--tiny"
    for commit in ("a" * 40, "b" * 40):
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "config.json").write_text("{}")
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / "main").write_text(commit)
        found.append(identity("acme/tiny"))
    assert found[0] != found[1]
    assert identity("acme/tiny", "a" * 40) == found[0]
    assert identity("acme/other", "v1") != identity("acme/other", "v2")


def request() -> Any:
    return SimpleNamespace(
        num_prompt_tokens=64, all_token_ids=list(range(64)), mm_features=[], prompt_embeds=None,
        lora_request=None, cache_salt=None,
    )  # fmt: skip


def test_after_a_reset_nothing_has_the_name_it_had() -> None:
    one, other = PrefixNames("w", BLOCK), PrefixNames("w", BLOCK)
    before = one.of(request())
    assert before == other.of(request())
    for names in (one, other):
        names.renew()
    assert len({str(names.of(request())) for names in (one, other)} | {str(before)}) == 3
