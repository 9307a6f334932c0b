"""Build the compiled wheel, and unpack it under build/compiled, to be run without installing it.

``PYTHONPATH=build/compiled`` takes it. The wheel itself is left in build/wheels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "build" / "compiled"
WHEELS = ROOT / "build" / "wheels"


def main() -> int:
    """The exit status."""
    for folder in (WHEELS, TARGET):  # A build that fails leaves no old one to be taken for new.
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(WHEELS), str(ROOT)],
        env={**os.environ, "PRFAAS_COMPILED": "1"},
        check=False,
    )
    if done.returncode != 0:
        return done.returncode
    (wheel,) = WHEELS.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(TARGET)
    print(f"{wheel.relative_to(ROOT)}; run it with PYTHONPATH=build/compiled, or install it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
