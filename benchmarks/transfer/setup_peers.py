"""Makes an interpreter of its own for each peer, outside the repository, and says why not.

    python -m benchmarks.transfer --set-up

NIXL and Mooncake come from PyPI; iperf3 and Mooncake's system libraries from the distribution.
What cannot be installed is left out of the benchmark with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prfaas" / "bench-peers"
PACKAGES = {
    "nixl": ("nixl", "numpy"),
    "mooncake": ("mooncake-transfer-engine-non-cuda", "numpy"),
}
IMPORTS = {"nixl": "import nixl._api", "mooncake": "import mooncake.engine"}
_DEBIAN = ("iperf3", "libibverbs1", "librdmacm1", "libnuma1")


def interpreter(peer: str) -> Path:
    return ROOT / peer / "bin" / "python"


def missing(peer: str) -> str | None:
    """Why ``peer`` cannot run, or None if it can."""
    if not interpreter(peer).exists():
        return "not installed; python -m benchmarks.transfer --set-up"
    done = subprocess.run(
        [interpreter(peer), "-c", IMPORTS[peer]], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def install(peer: str) -> str | None:
    """Install ``peer``; the reason if that fails."""
    if missing(peer) is None:
        return None
    venv.create(ROOT / peer, with_pip=True)
    command = [interpreter(peer), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"pip: {done.stderr.strip().splitlines()[-1]}"
    return missing(peer)


def install_system() -> str | None:
    """iperf3 and libraries, where apt and root are there."""
    if shutil.which("iperf3") is not None:
        return None
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "needs root and apt-get; install iperf3 by hand"
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", *_DEBIAN]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}"
    return None


def main() -> None:
    print(f"system packages: {install_system() or 'ready'}")
    for peer in PACKAGES:
        print(f"{peer}: {install(peer) or 'ready'}", flush=True)


if __name__ == "__main__":
    main()
