"""The connector's unit tests against the Python files of another vLLM.

    python tools/try_vllm.py 0.33.0          a version
    python tools/try_vllm.py                 the newest on PyPI, also if it is a release candidate

Downloads the wheel without what it depends on, lays its Python files before the installed vLLM's,
and runs tests/unit/vllm_plugin: what the connector reads and overrides is then that version's own.
Nothing is computed, and nothing is installed. Also shows which methods of the connector's base
class are new or gone. Needs the network, 400 MB of disk, and a minute.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_BASE = "distributed/kv_transfer/kv_connector/v1/base.py"
_FROM = ("manylinux_2_28_x86_64", "manylinux_2_31_x86_64", "manylinux_2_34_x86_64",
         "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
_TESTS = "tests/unit/vllm_plugin"


def main() -> int:
    version = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as directory:
        site = Path(directory) / "site"
        wheel = _download(version, Path(directory) / "wheel")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [n for n in archive.namelist() if not n.endswith(".so")])
        print(f"{wheel.name}\n{_difference(site)}", flush=True)
        path = os.pathsep.join(["src", str(site), os.environ.get("PYTHONPATH", "")])
        return subprocess.call(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _TESTS],
            env={**os.environ, "PYTHONPATH": path},
        )


def _download(version: str | None, target: Path) -> Path:
    wanted = ["--pre", "vllm"] if version is None else [f"vllm=={version}"]
    platforms = [option for name in _FROM for option in ("--platform", name)]
    subprocess.check_call(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", "3.12", "--implementation", "cp", *platforms, "-d", str(target),
         *wanted]
    )  # fmt: skip
    (wheel,) = target.glob("*.whl")
    return wheel


def _difference(site: Path) -> str:
    installed = importlib.util.find_spec("vllm")
    assert installed is not None
    assert installed.origin is not None
    before = _methods(Path(installed.origin).parent / _BASE)
    now = _methods(site / "vllm" / _BASE)
    new, gone = sorted(now - before), sorted(before - now)
    return f"connector methods, new: {', '.join(new) or 'none'}; gone: {', '.join(gone) or 'none'}"


def _methods(file: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}


if __name__ == "__main__":
    raise SystemExit(main())
