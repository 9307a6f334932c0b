"""Engines get GPUs of their own as far as they go, then share them, and their memory, evenly."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import (
    Deployment,
    MachineConfig,
    load_deployment,
    parse_deployment,
)
from prfaas.core.errors import ConfigError
from prfaas.launch.gpus import installed_gpus, kinds, placed
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


def test_names_of_gpus_may_have_spaces_and_what_the_environment_says_last_counts() -> None:
    found = gpus_of(placed(deployment(gpus="0, 1"), ["0", "1", "2"]))
    assert found["east-prefill"][0] == "0,1"
    assert found["west-decode"][0] == "2"
    both = deployment(gpus="1", env={"CUDA_VISIBLE_DEVICES": "0"})
    assert gpus_of(placed(both, ["0", "1"]))["east-prefill"][0] == "0"


@pytest.mark.parametrize(
    "changed",
    [{"gpu_memory_share": 0.8}, {"args": ("--gpu-memory-utilization", "0.8")},
     {"args": ("--gpu_memory_utilization=0.8",), "gpu_memory_share": 0.2}],
)  # fmt: skip
def test_engines_share_what_a_named_share_leaves(changed: dict[str, object]) -> None:
    """Together more than there is, vLLM would start some of them and no more."""
    found = gpus_of(placed(deployment(**changed), ["0"]))
    assert found["east-prefill"] == ("0", 0.8)
    others = [share or 0.0 for name, (_, share) in found.items() if name != "east-prefill"]
    assert others == [pytest.approx(0.1 / 3, abs=0.001)] * 2


def test_where_nothing_is_left_it_is_said_whose_share_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"west-\w+: of GPU 0 .*name its gpu_memory_share"):
        placed(deployment(gpu_memory_share=0.9), ["0"])
    with pytest.raises(ConfigError, match=r"east-prefill: .* 'much' is no share"):
        placed(deployment(args=("--gpu-memory-utilization", "much")), ["0"])


def many(roles: str, *args: str) -> Deployment:
    """One cluster on one machine, an engine for each letter: p prefills, d decodes."""
    engines = [
        {"name": f"{role}{n}", "role": "prefill" if role == "p" else "decode", "args": args}
        for n, role in enumerate(roles)
    ]
    cluster = {"name": "west", "kind": "pd", "engines": engines, "agent": {"name": "a"}}
    return parse_deployment(json.dumps({"clusters": [cluster]}), source="test")


@pytest.mark.parametrize(
    ("roles", "args", "gpus"),
    [
        ("ppppd", (), 1),
        ("ppd", (), 2),
        ("pppdd", (), 2),
        ("ppd", ("-tp", "2"), 2),
        ("ppd", ("-tp", "2"), 3),
        ("ppddd", ("--tensor_parallel_size", "2"), 4),
        ("pd", ("-tp", "8"), 8),
    ],
)
def test_however_many_engines_no_gpu_is_given_out_twice(
    roles: str, args: tuple[str, ...], gpus: int
) -> None:
    every = [str(n) for n in range(gpus)]
    found = gpus_of(placed(many(roles, *args), every))
    used = {name: (said or "").split(",") for name, (said, _) in found.items()}
    width = int(args[-1]) if args else 1
    assert all(len(set(its)) == width for its in used.values())
    for gpu in every:
        shares = [found[name][1] or 0.0 for name, its in used.items() if gpu in its]
        assert shares
        assert sum(shares) + max(shares) <= 0.9 + 0.01  # and a stock engine


def test_without_gpus_nothing_is_said() -> None:
    assert placed(deployment(), []) == deployment()


def test_the_visible_gpus_are_the_ones_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert installed_gpus() == ["3", "1"]
    for none in ("", "-1", "NoDevFiles", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert installed_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-8932f937,-1,0")
    assert installed_gpus() == ["2", "GPU-8932f937"]


SMI = """#!/bin/sh
case "$1" in
  --query-gpu=index) printf '0\\n1\\n' ;;
  --query-gpu=name) printf 'NVIDIA H200\\nNVIDIA H200\\n' ;;
esac
exit {status}
"""


@pytest.mark.parametrize(("status", "count"), [(0, 2), (9, 0)])
def test_the_driver_is_asked_which_there_are(
    status: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With status 9 it says that it does not reach its driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "nvidia-smi").write_text(SMI.format(status=status))
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert installed_gpus() == ["0", "1"][:count]
    assert kinds() == ("NVIDIA H200" if count else "")
