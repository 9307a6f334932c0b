"""The KV link over an emulated wide-area line, end to end through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas.testing.wan import Wan, WanProfile, unavailable
from prfaas.tls import authority

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(unavailable() is not None, reason=f"no WAN emulation: {unavailable()}"),
]
PRFAAS = [sys.executable, "-m", "prfaas.cli.main"]


def test_the_self_test_finds_the_line_as_it_is(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    for agent in ("east", "west"):
        authority.issue(tmp_path, agent)
    rate, rtt_s = 200e6 / 8, 0.03
    with Wan(WanProfile(rate, rtt_s, loss=1e-4)) as wan:
        address = f"{wan.addresses[1]}:7400"
        listen = [*PRFAAS, "link", "listen", "--listen", address, "--name", "west"]
        west = wan.popen(1, [*listen, "--certs", str(tmp_path)], stdout=subprocess.PIPE, text=True)
        try:
            assert west.stdout is not None
            assert "listens" in west.stdout.readline()
            test = [*PRFAAS, "link", "test", address, "--peer", "west", "--name", "east"]
            more = ["--certs", str(tmp_path), "--connections", "4", "--seconds", "3", "--json"]
            done = subprocess.run(
                wan.command(0, [*test, *more]), capture_output=True, text=True, check=False
            )
        finally:
            west.terminate()
            west.communicate()
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert rtt_s <= said["rtt_s"] <= 1.3 * rtt_s
    assert 0.7 * rate <= said["stages"][0]["goodput_bytes_per_s"] <= 1.05 * rate
