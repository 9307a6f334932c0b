"""Checks of a machine, on machines made of files."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from prfaas.doctor.machine import check_cards, check_files, check_huge_pages, check_shared_memory


def card(place: Path, name: str, **files: str) -> None:
    (place / name / "device").mkdir(parents=True)
    for file, text in files.items():
        (place / name / file).write_text(text + "\n")


def test_shared_memory_must_hold_the_arenas(tmp_path: Path) -> None:
    assert check_shared_memory(tmp_path, 1).level == "ok"
    short = check_shared_memory(tmp_path, 1 << 60)
    assert (short.level, "remount,size=" in short.advice) == ("error", True)
    assert check_shared_memory(tmp_path / "none", 1).level == "error"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("always within_size [advise] never deny force", "ok"),
        ("always within_size advise [never] deny force", "note"),
    ],
)
def test_huge_pages_are_a_saving_not_a_need(tmp_path: Path, text: str, level: str) -> None:
    file = tmp_path / "shmem_enabled"
    file.write_text(text)
    assert check_huge_pages(file).level == level
    assert check_huge_pages(tmp_path / "none").level == "note"


def test_few_open_files_are_a_warning() -> None:
    few = check_files((1024, 4096))
    assert (few.level, "ulimit -n" in few.advice) == ("warning", True)
    assert check_files((1 << 20, 1 << 20)).level == "ok"
    assert check_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY)).level == "ok"


def test_cards_that_are_up_tell_their_speed(tmp_path: Path) -> None:
    card(tmp_path, "eth0", operstate="up", speed="100000", mtu="9000")
    card(tmp_path, "eth1", operstate="up", speed="100", mtu="1500")
    card(tmp_path, "eth2", operstate="down", mtu="1500")
    card(tmp_path, "eth3", operstate="up", speed="-1", mtu="1500")
    found = list(check_cards(tmp_path))
    assert [finding.level for finding in found] == ["ok", "warning", "note"]
    assert found[0].found == "eth0: 100.0 Gbit/s, MTU 9000"
    assert [finding.level for finding in check_cards(tmp_path / "none")] == ["note"]
