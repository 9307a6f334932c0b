"""An attacker on the wire: every byte that machines send each other is captured while prompts are
served, and holds no text, token id, salt or key. The same in plaintext finds them: the attacker can
read.

Machines are network namespaces with real agents; the gateway is a third one's. Engines are mocks on
their machine's loopback, that hand over real bytes, and publish cache events.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.gateway.body import tenant_salt
from prfaas.launch.certificates import secured
from prfaas.testing.fleet_of_machines import until
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile, unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(unavailable() is not None, reason=unavailable() or ""),
]

MACHINES = {"e": {"e-p": "prefill"}, "w": {"w-p": "prefill", "w-d": "decode"}}
SITES = {"east": ["e"], "west": ["w", "g"]}
TEXT = "the treasure lies under the old oak behind the mill "
EVENT_TOKENS = list(range(1_234_001, 1_234_033))
SALT, ENGINE_KEY, CLIENT_KEY = "salt-of-the-tenant", "key-of-an-engine", "key-of-a-client"

ASK = """
import json, sys, urllib.request
def ask(path, body=None):
    request = urllib.request.Request("http://127.0.0.1:8000" + path, headers={
        "Content-Type": "application/json", "Authorization": "Bearer KEY"},
        data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode() + answer.headers.get("x-prfaas-route", "")
""".replace("KEY", CLIENT_KEY)
READY = ASK + "print(ask('/ready'))"
METRICS = ASK + "print(ask('/metrics'))"
SERVE = (
    ASK
    + f"""
for length in (40, 3000):
    ids = [(7 * length + i) % 251 + 500_000 for i in range(length)]
    print(ask("/v1/completions", {{"prompt": ids, "max_tokens": 8, "cache_salt": {SALT!r}}}))
print(ask("/v1/completions", {{"prompt": {TEXT!r}, "max_tokens": 8, "stream": True}}))
"""
)


def batch() -> str:
    event = {
        "type": "BlockStored",
        "block_hashes": [2**63 + 5],
        "parent_block_hash": None,
        "token_ids": EVENT_TOKENS,
        "block_size": 32,
        "medium": "GPU",
        "extra_keys": [[SALT]],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    return msgspec.msgpack.encode([1.0, [event], 0]).hex()


class Wire:
    """Everything started; `capture_of` is what went by."""

    def __init__(self, sites: Sites, home: Path, stack: contextlib.ExitStack, *, tls: bool) -> None:
        self._sites, self._home, self._stack, self._tls = sites, home, stack, tls
        self._captures = {m: self._capture(m) for m in (*MACHINES, "g")}
        self.file = home / "deployment.json"
        deployment = parse_deployment(json.dumps(self._deployment()), source="wire")
        deployment = secured(deployment, home / "certs")
        self.file.write_bytes(msgspec.json.encode(deployment))
        for machine, engines in MACHINES.items():
            self._start(
                machine, "prfaas.cli.main", "agent", str(self.file), "--name", f"a-{machine}"
            )
            self._start(machine, "prfaas.testing.mock_machine", str(self.file), machine)
            for number in range(len(engines)):
                ports = str(5600 + 2 * number), str(5601 + 2 * number)
                self._start(machine, "prfaas.testing.mock_publisher", *ports, batch())
        self._start("g", "prfaas.cli.main", "gateway", str(self.file))

    def _deployment(self) -> dict[str, Any]:
        return {
            "clusters": [
                {"name": "east", "kind": "prfaas", "machines": [self._machine("e")]},
                {"name": "west", "kind": "pd", "machines": [self._machine("w")]},
            ],
            "links": [{"from": "east", "to": "west", "rate": "100 Mbit/s"}],
            "gateway": {"listen": "127.0.0.1:8000", "api_keys": [CLIENT_KEY]},
            "scheduler": {"policy": "threshold", "threshold": 1024},
        }

    def _machine(self, name: str) -> dict[str, Any]:
        ours = self._sites.address(name)
        host = "127.0.0.1" if self._tls else ours
        return {
            "name": name,
            "agent": {
                "name": f"a-{name}",
                "listen": f"{ours}:7400",
                "admin": f"{ours}:7401",
                "socket": str(self._home / f"{name}.sock"),
                "arena": "32 MiB",
                "slot": "256 KiB",
                "plaintext": not self._tls,
            },
            "engines": [
                {
                    "name": engine,
                    "role": role,
                    "url": f"http://{host}:{8001 + number}",
                    "api_key_env": "CAPTURE_ENGINE_KEY",
                    "kv_events": f"tcp://127.0.0.1:{5600 + 2 * number}",
                    "kv_events_replay": f"tcp://127.0.0.1:{5601 + 2 * number}",
                }
                for number, (engine, role) in enumerate(MACHINES[name].items())
            ],
        }

    def _start(self, machine: str, *module: str) -> subprocess.Popen[Any]:
        log = self._stack.enter_context((self._home / f"{machine}-{module[0]}.log").open("ab"))
        process = self._sites.popen(
            machine,
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "CAPTURE_ENGINE_KEY": ENGINE_KEY},
        )
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[Any]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    def _capture(self, machine: str) -> subprocess.Popen[Any]:
        return self._start(machine, "prfaas.testing.capture", str(self._home / f"{machine}.bytes"))

    def at_gateway(self, program: str) -> str:
        """What a client says that runs beside the gateway."""
        done = self._sites.popen(
            "g", [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        said: bytes = done.communicate(timeout=90)[0]
        return said.decode() if done.returncode == 0 else ""

    def whole(self) -> bool:
        ready = self.at_gateway(READY)
        if not ready or json.loads(ready).get("warnings", ["?"]):
            return False
        page = self.at_gateway(METRICS)
        live = all(
            f'prfaas_gateway_engine_up{{engine="{engine}"}} 1.0' in page
            and (f'prfaas_gateway_index_blocks{{engine="{engine}"}} 1.0' in page or not self._tls)
            for engines in MACHINES.values()
            for engine in engines
        )
        return live and 'prfaas_gateway_link_up{source="east",target="west"} 1.0' in page

    def captured(self) -> bytes:
        found = []
        for machine, process in self._captures.items():
            self._end(process)
            found.append((self._home / f"{machine}.bytes").read_bytes())
        return b"\0".join(found)


@contextlib.contextmanager
def serving(home: Path, *, tls: bool) -> Iterator[Wire]:
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(SITES, {("east", "west"): WanProfile(25e6, 0.02)}))
        wire = Wire(sites, home, stack, tls=tls)
        until(wire.whole, f"all of it is up, see {home}")
        yield wire


SECRETS = {
    "text of a prompt": TEXT.strip().encode(),
    "token ids of a prompt": b"500031",
    "token ids of a cache event": EVENT_TOKENS[7].to_bytes(4, "big"),
    "the same, as an array has them": EVENT_TOKENS[7].to_bytes(4, "little"),
    "a salt": SALT.encode(),
    "a salt, as engines are told it": tenant_salt("", SALT).encode(),
    "an engine's key": ENGINE_KEY.encode(),
    "a client's key": CLIENT_KEY.encode(),
    "a hash of the engine's": (2**63 + 5).to_bytes(8, "big"),
}
IN_PLAINTEXT = {
    "text of a prompt",
    "token ids of a prompt",
    "a salt, as engines are told it",
    "an engine's key",
}


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plaintext"])
def test_what_an_attacker_reads_on_the_wire(tls: bool, tmp_path: Path) -> None:
    with serving(tmp_path, tls=tls) as wire:
        said: list[str] = []

        def crossed() -> bool:
            """On a busy machine an engine may be late, and its prompt be prefilled elsewhere."""
            said.append(wire.at_gateway(SERVE))
            assert said[-1].count('"choices"') >= 3, said
            return "offload" in said[-1]

        until(crossed, f"a prompt is offloaded: {said}")
        captured = wire.captured()
    found = {what for what, secret in SECRETS.items() if secret in captured}
    if tls:
        cache_key = (tmp_path / "certs" / "cache.key").read_text().strip()
        assert cache_key.encode() not in captured
        assert bytes.fromhex(cache_key) not in captured
    assert len(captured) > 2_000_000  # The KV cache of the long prompt has crossed the line.
    assert found == (set() if tls else IN_PLAINTEXT)
