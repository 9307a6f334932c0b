"""Write the lock files: every package with its version and the hashes of its files.

    requirements.lock      what `make setup` installs, and images/engine-cpu.Dockerfile
    images/base.lock       what agents, gateways and members need, of the same versions
    requirements-ray.lock  what `make test-ray` needs beside it

    python tools/lock.py            what pyproject.toml asks for; versions that fit it stay
    python tools/lock.py --upgrade  the newest of everything

uv resolves, for Linux on x86-64 and ARM and every Python that pyproject.toml names. torch is in
none: its CPU build has other files than PyPI's, so `make setup` installs it by its version. No
index is named: files are known by their hashes, wherever they come from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    "requirements.lock": ("cpu", "dev"),
    "images/base.lock": ("build",),
    "requirements-ray.lock": ("ray",),
}
"""By extras. The first decides the versions of all."""
_NOT_LOCKED = ("torch", "torchvision", "torchaudio", "torchcodec")
"""vLLM's text serving needs none but the first."""
_HEADER = "# Made by tools/lock.py: `make lock`.\n"


def compile_locks(*, upgrade: bool) -> dict[str, str]:
    """The text of each file. Raises CalledProcessError where uv finds no solution."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        install = [f"{scratch}/bin/python", "-m", "pip", "install", "--quiet", "uv"]
        subprocess.run(install, check=True)
        main = next(iter(FILES))
        known = (ROOT / main).read_text() if (ROOT / main).exists() and not upgrade else ""
        found = {}
        for name, extras in FILES.items():
            made = Path(scratch, "made.lock")
            made.write_text(known)  # Preferred where it fits.
            _compile(f"{scratch}/bin/uv", extras, made)
            found[name] = _HEADER + tidied(made.read_text(), _everywhere())
            known = found[main]
        return found


def _compile(uv: str, extras: tuple[str, ...], made: Path) -> None:
    command = [uv, "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--quiet", "--output-file", str(made)]
    for extra in extras:
        command += ["--extra", extra]
    for name in _NOT_LOCKED:
        command += ["--no-emit-package", name]
    environment = {key: v for key, v in os.environ.items() if not key.startswith("PIP_")}
    if "PIP_CERT" in os.environ:
        environment.setdefault("SSL_CERT_FILE", os.environ["PIP_CERT"])
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def tidied(text: str, everywhere: str) -> str:
    """Without the condition that holds wherever the file is used, and without uv's last words."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(line.replace(f" ; {everywhere}", "") for line in lines).strip() + "\n"


def _everywhere() -> str:
    """The condition of pyproject.toml's environments together, as uv writes it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    environments = project["tool"]["uv"]["environments"]
    machines = sorted(re.findall(r"platform_machine == '(\w+)'", " ".join(environments)))
    (below,) = {*re.findall(r"python_full_version < '([\d.]+)'", " ".join(environments))}
    kinds = [f"(platform_machine == '{m}' and sys_platform == 'linux')" for m in machines]
    return f"python_full_version < '{below}' and ({' or '.join(kinds)})"


if __name__ == "__main__":
    for name, text in compile_locks(upgrade="--upgrade" in sys.argv[1:]).items():
        (ROOT / name).write_text(text)
