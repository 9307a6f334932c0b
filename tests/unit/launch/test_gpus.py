"""Engines get GPUs of their own as far as they go, then share them, and their memory, evenly."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.deployment import Deployment, MachineConfig, load_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.gpus import installed_gpus, placed
from prfaas.launch.start import embedded_default


def deployment(**changed: object) -> Deployment:
    """The embedded one: two prefill engines and one that decodes; ``changed`` is the first's."""
    whole = load_deployment(embedded_default())
    first = whole.machines[0]

    def change(machine: MachineConfig) -> MachineConfig:
        if machine != first:
            return machine
        engines = (msgspec.structs.replace(first.engines[0], **changed), *first.engines[1:])
        return msgspec.structs.replace(first, engines=engines)

    return whole.with_machines(change)


def gpus_of(whole: Deployment) -> dict[str, tuple[str | None, float | None]]:
    return {e.name: (e.gpus, e.gpu_memory_share) for c in whole.clusters for e in c.engines}


def test_one_gpu_is_shared_with_room_for_a_stock_engine() -> None:
    found = gpus_of(placed(deployment(), ["0"]))
    assert {gpus for gpus, _ in found.values()} == {"0"}
    assert sum(share or 0 for _, share in found.values()) <= 0.9 * 3 / 4 + 1e-9


def test_of_two_gpus_the_decode_engine_has_one_to_itself() -> None:
    found = gpus_of(placed(deployment(), ["0", "1"]))
    assert found["west-decode"] == ("0", 0.45)
    assert found["east-prefill"] == found["west-prefill"] == ("1", 0.3)


def test_with_enough_gpus_each_engine_has_its_own() -> None:
    found = gpus_of(placed(deployment(), ["2", "5", "7", "9"]))
    assert len({gpus for gpus, _ in found.values()}) == 3


@pytest.mark.parametrize("args", [("-tp", "2"), ("--tensor-parallel-size=2",)])
def test_ranks_of_an_engine_have_a_gpu_each(args: tuple[str, ...]) -> None:
    found = gpus_of(placed(deployment(args=args), ["0", "1", "2", "3"]))
    gpus = found["east-prefill"][0]
    assert gpus is not None
    assert len(set(gpus.split(","))) == 2


def test_an_engine_wider_than_the_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="east-prefill wants 4 GPUs"):
        placed(deployment(args=("-tp", "4")), ["0", "1"])


def test_what_the_file_says_is_kept() -> None:
    found = gpus_of(placed(deployment(gpus="1", gpu_memory_share=0.6), ["0", "1"]))
    assert found["east-prefill"] == ("1", 0.6)
    assert found["west-decode"][0] == "0"
    found = gpus_of(placed(deployment(env={"CUDA_VISIBLE_DEVICES": "0"}), ["0", "1"]))
    assert found["east-prefill"][0] == "0"
    assert found["west-decode"][0] == "1"


def test_without_gpus_nothing_is_said() -> None:
    assert placed(deployment(), []) == deployment()


def test_the_visible_gpus_are_the_ones_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert installed_gpus() == ["3", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert installed_gpus() == []
