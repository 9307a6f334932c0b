"""The wheel with compiled modules: installed where there is no compiler, it simulates the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "prfaas"
ASKED = ("simulate", "tests/packaging/fleet.yaml", "--policy", "auto", "--json", "--events")


def modules() -> list[str]:
    text = (ROOT / "tools" / "compiled_wheel.py").read_text()
    listed = text[text.index("MODULES = (") : text.index("SETUP = ")]
    return [line.strip(' ",') for line in listed.splitlines()[1:] if line.startswith("    ")]


@pytest.mark.parametrize("module", modules())
def test_what_is_compiled_exists_and_defines_no_msgspec_type(module: str) -> None:
    text = (SOURCE / f"{module}.py").read_text()
    assert "(msgspec.Struct" not in text
    assert "(Strict" not in text


@pytest.mark.slow
def test_a_fresh_environment_runs_the_wheel_without_a_compiler(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "benchmarks/simulator/compile.py"], cwd=ROOT, check=True)
    (wheel,) = (ROOT / "build" / "wheels").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin_folder = tmp_path / "venv" / "bin"
    subprocess.run([bin_folder / "pip", "install", "--quiet", str(wheel)], check=True)
    # Nothing of this checkout, and no compiler: only the new environment is on the path.
    clean = {"PATH": str(bin_folder), "HOME": os.environ.get("HOME", "/")}
    looked = "import prfaas.scheduler.scheduler as s, prfaas.gateway.token_text as e; "
    looked += "print(s.__file__, e.__file__)"
    found = subprocess.run(
        [bin_folder / "python", "-I", "-c", looked],
        env=clean,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    for file in found.stdout.split():
        assert file.startswith(str(tmp_path))
        assert not file.endswith(".py")
    shown, journals = [], []
    for command, env in (
        ([str(bin_folder / "prfaas")], clean),
        ([sys.executable, "-m", "prfaas.cli.main"], dict(os.environ)),
    ):
        journal = tmp_path / f"{len(shown)}.jsonl"
        asked = [*command, *ASKED, str(journal)]
        done = subprocess.run(
            asked, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
        )
        shown.append(json.loads(done.stdout))
        journals.append(journal.read_bytes().splitlines())
    assert shown[0] == shown[1]
    assert len(journals[0]) > 3000
    assert journals[0] == journals[1]
