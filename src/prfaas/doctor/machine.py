"""Shared memory, huge pages, file limits, network cards."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from prfaas.core.deployment import AgentConfig, Deployment
from prfaas.core.units import format_bytes, format_rate
from prfaas.doctor.finding import Finding, ok
from prfaas.doctor.here import agents_here

FILES_WANTED = 16_384
"""A gateway of 1,024 requests holds a few descriptors for each; an agent a few per connection."""
_SLOW_BYTES_PER_S = 1.25e8


def check_machine(
    deployment: Deployment | None, *, sys: Path = Path("/sys"), shm: Path = Path("/dev/shm")
) -> Iterator[Finding]:
    """Args: sys, shm: where the kernel shows its state and shared memory lies."""
    agents = [a for a in agents_here(deployment) if not a.external] if deployment else []
    wanted = sum(agent.arena_bytes for agent in agents) or AgentConfig(name="any").arena_bytes
    yield check_shared_memory(shm, wanted)
    yield check_huge_pages(sys / "kernel/mm/transparent_hugepage/shmem_enabled")
    yield check_files(resource.getrlimit(resource.RLIMIT_NOFILE))
    yield ok("cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
    yield from check_cards(sys / "class/net")


def check_shared_memory(place: Path, wanted_bytes: int) -> Finding:
    """Room for the arenas that this machine's agents would make."""
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return Finding(
            "shared memory", "error", f"{place}: {error.strerror}", "mount a tmpfs there"
        )
    words = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)} in {place}"
    if usage.free < wanted_bytes:
        return Finding(
            "shared memory", "error", f"{words}; the arenas want {format_bytes(wanted_bytes)}",
            f"mount -o remount,size={-(-2 * wanted_bytes >> 30)}G {place} (in a container: "
            "--shm-size), or a smaller 'arena' in the file",
        )  # fmt: skip
    return ok("shared memory", f"{words}; the arenas want {format_bytes(wanted_bytes)}")


def check_huge_pages(file: Path) -> Finding:
    """Whether shared memory may have huge pages: they save the CPU work of copying."""
    try:
        text = file.read_text()
    except OSError:
        return Finding("huge pages", "note", "this kernel does not say", "")
    chosen = text[text.find("[") + 1 : text.find("]")]
    words = f"shared memory: {chosen}"
    if chosen in ("never", "deny"):
        return Finding(
            "huge pages", "note", words, f"for less CPU per byte: echo advise > {file} (as root)"
        )
    return ok("huge pages", words)


def check_files(limits: tuple[int, int]) -> Finding:
    """Args: limits: soft and hard limit of open files."""
    soft, hard = limits
    words = f"{_files(soft)} open files, at most {_files(hard)}"
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        return Finding(
            "file limit", "warning", words,
            f"ulimit -n {FILES_WANTED}, LimitNOFILE={FILES_WANTED} in a systemd unit",
        )  # fmt: skip
    return ok("file limit", words)


def _files(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def check_cards(place: Path) -> Iterator[Finding]:
    """Network cards that are up, and their speed where they say it."""
    cards = sorted(card for card in place.glob("*") if (card / "device").exists() and _is_up(card))
    if not cards:
        yield Finding("network card", "note", "no card is seen to be up (a container sees none)")
    for card in cards:
        mtu = _read(card / "mtu") or "?"
        speed = _read(card / "speed")
        if speed is None or not speed.isdigit():
            yield Finding("network card", "note", f"{card.name}: speed unknown, MTU {mtu}")
            continue
        rate = int(speed) * 1e6 / 8
        words = f"{card.name}: {format_rate(rate)}, MTU {mtu}"
        if rate < _SLOW_BYTES_PER_S:
            yield Finding(
                "network card", "warning", words, "check the cable and the switch's port: the KV "
                "link can be no faster",
            )  # fmt: skip
        else:
            yield ok("network card", words)


def _is_up(card: Path) -> bool:
    return _read(card / "operstate") == "up"


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:  # A card that is down has no speed to read.
        return None
