"""Compiles the pure modules that simulating and scheduling take their time in, into a wheel.

A build hook of hatchling, in effect where PRFAAS_COMPILED=1 is in the environment (``make wheel``);
without it, and for an editable install, the package is pure Python. The sources stay in the wheel
beside the compiled modules, which Python prefers: a reader of a traceback still finds them. The
wheel gives the same results to the last digit. Building needs mypy, setuptools and a C compiler;
whoever installs the wheel needs none of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# None that defines a msgspec type: those need annotations, which mypyc does away with.
MODULES = (
    "core/boundary",
    "models/interpolation",
    "policies/alike",
    "policies/alike_queues",
    "policies/alike_way",
    "policies/alike_ways",
    "policies/auto",
    "policies/beside_batch",
    "policies/costs",
    "policies/decode_load",
    "policies/fading_line",
    "policies/first_token",
    "policies/line_facts",
    "policies/line_rate",
    "policies/placement",
    "policies/route_choice",
    "policies/routes",
    "policies/waits",
    "scheduler/answer_lengths",
    "scheduler/clock",
    "scheduler/congestion",
    "scheduler/connectivity",
    "scheduler/decoding",
    "scheduler/ending",
    "scheduler/fleet",
    "scheduler/handoff_end",
    "scheduler/hedging",
    "scheduler/line",
    "scheduler/leading",
    "scheduler/memory",
    "scheduler/pairing",
    "scheduler/prefilling",
    "scheduler/queues",
    "scheduler/requests",
    "scheduler/reservations",
    "scheduler/roles",
    "scheduler/routing",
    "scheduler/scheduler",
    "scheduler/share",
    "scheduler/state",
    "scheduler/timers",
    "scheduler/turns",
    "sim/clock",
    "sim/engine",
    "sim/job",
    "sim/line",
    "sim/network",
    "sim/simulation",
    "workload/pools",
    "workload/prefix_cache",
)
IN_C = ("gateway/token_text",)
"""What Python would take several times as long for; the package does without them, too."""
SETUP = """
from mypyc.build import mypycify
from setuptools import Extension, setup

in_c = [Extension(name.replace("/", "."), [name + ".c"]) for name in {in_c!r}]
setup(name="prfaas-compiled", packages=[], ext_modules=in_c + mypycify({arguments!r}))
"""


class CompiledModules(BuildHookInterface):
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together. Exits where the compiler fails."""
        if os.environ.get("PRFAAS_COMPILED") != "1" or version == "editable":
            return
        root = Path(self.root)
        built = compiled(root / "src" / "prfaas", root / "build" / "mypyc")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update(built)


def compiled(source: Path, work: Path) -> dict[str, str]:
    """Compile a copy of the package in ``work``; extension module -> its path in the wheel."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work / "prfaas", ignore=shutil.ignore_patterns("__pycache__"))
    (work / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n")
    arguments = ["--config-file", "mypy.ini", *(f"prfaas/{module}.py" for module in MODULES)]
    in_c = [f"prfaas/{module}" for module in IN_C]
    (work / "setup.py").write_text(SETUP.format(arguments=arguments, in_c=in_c))
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=work,
        env={"CFLAGS": "-O2", **os.environ},
        check=False,
    )
    if done.returncode != 0:
        sys.exit("PRFAAS_COMPILED=1: mypyc failed, see above; it needs mypy and a C compiler")
    found = [*work.glob("*.so"), *work.glob("*.pyd"), *(work / "prfaas").rglob("*.so")]
    found += (work / "prfaas").rglob("*.pyd")
    return {str(path): path.relative_to(work).as_posix() for path in found}
