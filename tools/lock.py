"""Write requirements.lock: every package that `make setup` installs, with its version and the hashes of its
files.

    python tools/lock.py            what pyproject.toml asks for; versions that fit it stay
    python tools/lock.py --upgrade  the newest of everything

uv resolves, for Linux on x86-64 and ARM and every Python that pyproject.toml allows. torch is not in the file: its
CPU build has other files than PyPI's, so `make setup` installs it by its version. No index is named:
files are known by their hashes, wherever they come from.
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
LOCK = ROOT / "requirements.lock"
_NOT_LOCKED = ("torch", "torchvision", "torchaudio", "torchcodec")
"""vLLM's text serving needs none but the first."""
_HEADER = "# Made by tools/lock.py: `make lock`. torch stands in the Makefile.\n"


def compile_lock(*, upgrade: bool) -> str:
    """The text of the file. Raises CalledProcessError where uv finds no solution."""
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = f"{scratch}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        made = Path(scratch, "requirements.lock")
        if LOCK.exists() and not upgrade:
            made.write_text(LOCK.read_text())  # Preferred where they fit.
        command = [f"{scratch}/bin/uv", "pip", "compile", "pyproject.toml"]
        command += ["--extra", "cpu", "--extra", "dev", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-header", "--quiet", "--output-file", str(made)]
        for name in _NOT_LOCKED:
            command += ["--no-emit-package", name]
        environment = {key: v for key, v in os.environ.items() if not key.startswith("PIP_")}
        if "PIP_CERT" in os.environ:
            environment.setdefault("SSL_CERT_FILE", os.environ["PIP_CERT"])
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return _HEADER + tidied(made.read_text(), _everywhere())


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
    LOCK.write_text(compile_lock(upgrade="--upgrade" in sys.argv[1:]))
