"""How fast prefixes go to an agent's disk and come back, as shares of what the disk does plainly.

One agent as a process with a disk, and this process as its engine. Prefixes are given to the agent
until they are all on disk; then the agent is killed (-9), and another life of it gives them back,
each once: from the question to the last page in its place, so with checksums and copies. Beside
them, in turns with them, files of the same size in the same directory are written and read plainly:
O_DIRECT, 4 MiB at a time, one thread.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.pool.rates import BLOCK_TOKENS, BLOCKS, LAYOUT, PAGE_BYTES, PLAN

from prfaas.agent.spill_directory import file_system
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.extents import Extent
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.core.prompt_digest import prompt_digest
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.messages import BeginExport
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import agent_command
from prfaas.vllm_plugin.cached import CachedPages, open_cached
from prfaas.vllm_plugin.metadata import CachedPart, ImportStart
from prfaas.vllm_plugin.pages import CpuCopier, Pages

ROUNDS = 5
_WAIT_S = 120.0
_CHUNK = 4 << 20
_DEPLOYMENT = """
clusters:
  - name: west
    kind: pd
    engines: [{{name: d, role: decode}}]
    agent: {{name: west-agent, admin: "{admin}", socket: {run}/w, plaintext: true, arena: 512 MiB,
             cache: {{spill: {{path: {disk}, size: 4 GiB}}}}}}
"""


def measured(directory: Path = Path("build")) -> dict[str, Any]:
    """Rates in bytes per second with their limits and shares; printed as they are known."""
    directory.mkdir(exist_ok=True)
    found: dict[str, Any] = {
        "bytes": PLAN.total_bytes, "rounds": ROUNDS, "file_system": file_system(directory),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory.resolve())))
        file = run / "disk.yaml"
        file.write_text(_DEPLOYMENT.format(admin=free_address(), run=run, disk=disk / "kv"))
        deployment = parse_deployment(file.read_text(), source=str(file))
        plain, written, read = _Plain(disk), [], []
        with _engine(deployment, file, run) as engine:
            for number in range(ROUNDS + 1):
                plain.write(number)
                written.append(engine.keep(number))
        with _engine(deployment, file, run) as engine:
            engine.until(lambda: engine.count("found") == ROUNDS + 1)
            for number in range(ROUNDS + 1):
                plain.read(number)
                read.append(engine.load(number))
            assert engine.count("read") == ROUNDS + 1, "some did not come from disk"
            again = [engine.load(ROUNDS) for _ in range(ROUNDS)]
    found["write"] = _share(written, plain.written)
    found["read"] = _share(read, plain.reads)
    found["from_memory_bytes_per_s"] = PLAN.total_bytes / statistics.median(again)
    for name in ("write", "read"):
        one = found[name]
        print(
            f"{'disk ' + name:>10}: {one['bytes_per_s'] / 1e9:.2f} GB/s, {one['share']:.0%} of a "
            f"plain {name} with O_DIRECT ({one['limit_bytes_per_s'] / 1e9:.2f} GB/s)",
            flush=True,
        )
    return found


def _share(took: list[float], plain: list[float]) -> dict[str, Any]:
    """The first of each warms up. The share is the median's of the pairs."""
    size = PLAN.total_bytes
    pairs = [limit / one for one, limit in zip(took[1:], plain[1:], strict=True)]
    return {
        "bytes_per_s": size / statistics.median(took[1:]),
        "limit": "plain, O_DIRECT, 4 MiB at a time",
        "limit_bytes_per_s": size / statistics.median(plain[1:]),
        "share": statistics.median(pairs),
        "shares": pairs,
    }


class _Plain:
    """Files of the same size beside the agent's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffer = mmap.mmap(-1, _CHUNK)
        self._buffer[:] = os.urandom(_CHUNK)
        self.written: list[float] = []
        self.reads: list[float] = []

    def write(self, number: int) -> None:
        self.written.append(self._timed(number, os.O_WRONLY | os.O_CREAT, self._write_chunk))

    def read(self, number: int) -> None:
        self.reads.append(self._timed(number, os.O_RDONLY, self._read_chunk))

    def _timed(self, number: int, flags: int, each: Callable[[int, int], None]) -> float:
        file = os.open(self._directory / f"plain{number}", flags | os.O_DIRECT, 0o600)
        try:
            began = time.monotonic()
            for at in range(0, PLAN.total_bytes, _CHUNK):
                each(file, at)
            return time.monotonic() - began
        finally:
            os.close(file)

    def _write_chunk(self, file: int, at: int) -> None:
        os.pwrite(file, self._buffer, at)

    def _read_chunk(self, file: int, at: int) -> None:
        os.preadv(file, [self._buffer], at)


@contextlib.contextmanager
def _engine(deployment: Deployment, file: Path, run: Path) -> Iterator[_Engine]:
    """An agent, and an engine at it; the agent is killed at the end."""
    (agent,) = deployment.agents
    command = list(agent_command(agent, file).arguments)
    with subprocess.Popen(command, start_new_session=True) as process:
        client = AgentClient(str(run / "w"), engine="d", layout=LAYOUT)
        try:
            client.wait_connected(_WAIT_S)
            yield _Engine(client, agent.admin_url)
        finally:
            process.kill()
            client.close()


class _Engine:
    def __init__(self, client: AgentClient, url: str) -> None:
        self._client, self._url = client, url
        self._copier = CpuCopier()
        self._tensors = {
            layer.name: torch.zeros(BLOCKS + 1, PAGE_BYTES, dtype=torch.uint8)
            for layer in LAYOUT.groups[0].layers
        }
        pages = {name: Pages.of(tensor) for name, tensor in self._tensors.items()}
        self._pages = CachedPages(LAYOUT, pages, self._copier)

    def keep(self, number: int) -> float:
        """Seconds from the last byte that the agent was given to the last that is on disk."""
        client, name, tokens = self._client, uuid.uuid4().hex, _tokens(number)
        before = self.count("written")
        client.begin_export(
            BeginExport(
                transfer_id=name,
                destination="",
                from_token=0,
                to_token=len(tokens),
                total_bytes=PLAN.total_bytes,
                deadline_s=_WAIT_S,
                prompt_digest=prompt_digest(tokens, to_token=len(tokens)),
                readers=(),
            )
        )
        client.describe(name, _prefix(number))
        done = 0
        while done < PLAN.total_bytes:
            slot = client.lease(_WAIT_S, transfer_id=name)
            length = min(len(slot.view), PLAN.total_bytes - done)
            slot.view[:length] = bytes([1 + number]) * length
            client.export_slot(name, slot, [Extent(done, slot.offset, length)])
            done += length
        began = time.monotonic()
        why = client.finish_export(name)
        if why is not None:
            raise SystemExit(f"an export failed: {why}")
        self.until(lambda: self.count("written") == before + 1)
        return time.monotonic() - began

    def load(self, number: int) -> float:
        """Seconds; raises where it has other bytes than were kept."""
        size = BLOCK_TOKENS * BLOCKS
        item = ImportStart(
            "r", None, "", size, size, 0, (list(range(1, BLOCKS + 1)),),
            cached=CachedPart(size, BLOCK_TOKENS, _prefix(number).digests),
        )  # fmt: skip
        for tensor in self._tensors.values():
            tensor.zero_()
        began = time.monotonic()
        load = open_cached(self._client, LAYOUT, item)
        try:
            self._pages.copy(item, load)
            self._copier.wait_scattered()
        finally:
            for opened in load.loads.values():
                self._client.close_load(opened)
        took = time.monotonic() - began
        for tensor in self._tensors.values():
            if not bool((tensor[1:] == 1 + number).all()):
                raise SystemExit("what came back is not what was kept")
        return took

    def count(self, outcome: str) -> int:
        wanted = f'prfaas_pool_spill_parts_total{{outcome="{outcome}"}} '
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=_WAIT_S) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(wanted):
                    return int(float(line.removeprefix(wanted)))
        raise SystemExit(f"no {outcome} in {self._url}/metrics")

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > end:
                raise SystemExit("the disk does not get ready")
            time.sleep(0.005)


def _tokens(number: int) -> list[int]:
    return list(range(number * 100_000, number * 100_000 + BLOCK_TOKENS * BLOCKS))


def _prefix(number: int) -> PromptPrefix:
    root, tokens = root_digest("disk", adapter=None, salt=None), _tokens(number)
    found = stretch(
        chain(root, tokens, BLOCK_TOKENS), root, tokens, block_tokens=BLOCK_TOKENS,
        from_token=0, to_token=len(tokens), salt=None, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


if __name__ == "__main__":
    print(json.dumps(measured(), indent=2))
