"""Try the newest of everything that pyproject.toml allows, and say what broke.

    python tools/newest.py                 style, types, and the fast tests
    python tools/newest.py lint types      some of them

Makes an environment of its own, build/newest: what `make setup` would install without a lock file.
Shows which packages differ from requirements.lock, then runs the checks there; where all pass,
`make lock UPGRADE=1` takes the new versions over. vLLM's own releases are tried by `make
next-vllm`. Exit status 1 where anything broke.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "newest"
CHECKS = {
    "lint": ("ruff", "check"),
    "types": ("mypy",),
    "tests": (
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not engine and not root and not slow",
    ),
}
_LAST_LINES = 15
_TORCH = re.compile(r"^TORCH := (\S+)$", re.MULTILINE)
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)


def newer(lock: str, installed: dict[str, str]) -> list[tuple[str, str, str]]:
    """(package, version of the lock file or "", version now) of all that differ."""
    locked = dict(_PINNED.findall(lock))
    return sorted(
        (name, locked.get(name, ""), version)
        for name, version in installed.items()
        if version != locked.get(name)
    )


def main(chosen: list[str]) -> int:
    """Raises CalledProcessError where the newest versions do not install together."""
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        print(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    for name, locked, now in newer((ROOT / "requirements.lock").read_text(), _install()):
        print(f"  {name} {locked or '(not locked)'} -> {now}", flush=True)
    broken = [name for name in chosen or CHECKS if not _passes(name)]
    print(f"broken with the newest versions: {', '.join(broken) or 'nothing'}")
    return 1 if broken else 0


def _install() -> dict[str, str]:
    """Into an empty environment; returns versions by normal names."""
    print(f"The newest of everything into {PLACE.relative_to(ROOT)} ...", flush=True)
    venv.create(PLACE, with_pip=True, clear=True)
    pip = [f"{PLACE}/bin/python", "-m", "pip"]
    (torch,) = _TORCH.findall((ROOT / "Makefile").read_text())
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
    subprocess.run([*pip, "install", "--quiet", torch], check=True)
    subprocess.run([*pip, "install", "--quiet", "--editable", ".[cpu,dev]"], cwd=ROOT, check=True)
    gone = ["torchvision", "torchaudio", "torchcodec"]  # Their builds do not fit every torch.
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *gone], check=True)
    told = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, check=True)
    found = {
        re.sub(r"[-_.]+", "-", p["name"]).lower(): p["version"] for p in json.loads(told.stdout)
    }
    return {
        name: version for name, version in found.items() if name not in ("pip", "prfaas", "torch")
    }


def _passes(name: str) -> bool:
    program, *rest = CHECKS[name]
    print(f"{name} ...", end=" ", flush=True)
    ran = subprocess.run(
        [f"{PLACE}/bin/{program}", *rest], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print("ok" if ran.returncode == 0 else "BROKEN", flush=True)
    if ran.returncode != 0:
        for line in (ran.stdout + ran.stderr).splitlines()[-_LAST_LINES:]:
            print(f"  | {line}")
    return ran.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
