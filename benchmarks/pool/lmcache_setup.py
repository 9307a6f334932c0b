"""LMCache in an environment of its own, beside the vLLM that the benchmarks use.

    python -m benchmarks.pool.lmcache_setup

Its package wants CUDA libraries and other versions of what vLLM has. What its in-process connector
imports is installed, the rest is taken from this interpreter's environment.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

ROOT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prfaas" / "bench-peers"
_PACKAGES = (
    *("lmcache==0.5.6", "aiofile", "caio", "aiofiles", "blake3", "awscrt", "nvtx", "redis"),
    *("sortedcontainers", "cachetools", "cufile-python"),
)
_IMPORT = "import lmcache.integration.vllm.vllm_v1_adapter"


def interpreter() -> Path:
    """Its Python."""
    return ROOT / "lmcache" / "bin" / "python"


def missing() -> str | None:
    """Why it cannot run, or None where it can."""
    if not interpreter().exists():
        return "not installed; python -m benchmarks.pool.lmcache_setup"
    done = subprocess.run([interpreter(), "-c", _IMPORT], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def install() -> str | None:
    """Install it; the reason where that fails."""
    if missing() is None:
        return None
    venv.create(ROOT / "lmcache", with_pip=True)
    (site,) = (ROOT / "lmcache" / "lib").glob("python*/site-packages")
    (site / "vllm.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [interpreter(), "-m", "pip", "install", "--quiet", "--no-deps", *_PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"pip: {done.stderr.strip().splitlines()[-1]}"
    return missing()


if __name__ == "__main__":
    print(f"LMCache: {install() or 'ready'}")
