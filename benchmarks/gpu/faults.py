"""kill -9 of each process of a deployment on the GPU while a prompt's KV cache is on its way, as
the tests do it: the answer must be right, and slots, blocks, processes, shared memory and the GPU's
memory must come back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

TESTS = "tests/integration/test_faults.py"
Row = dict[str, Any]


def measure(which: str) -> Iterator[Row]:
    """A row for each test, and the GPU's memory before and after. Needs the project's checkout as
    the working directory, and pytest."""
    before = used_mib()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default",
            "-k", which, f"--junitxml={report}", TESTS,
        ]  # fmt: skip
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        print(ended.stdout[-4000:], file=sys.stderr)
        figures = re.findall(r"measured on this machine: (.*)", ended.stdout)
        yield {"what": "measured", "figures": figures, "status": ended.returncode}
        for case in ElementTree.parse(report).iter("testcase"):
            failed = [child for child in case if child.tag in ("failure", "error", "skipped")]
            yield {
                "what": "killed", "test": case.get("name"), "seconds": case.get("time"),
                "outcome": failed[0].tag if failed else "passed",
                "said": failed[0].get("message", "")[:500] if failed else "",
            }  # fmt: skip
    yield {"what": "GPU memory", "before_mib": before, "after_mib": used_mib()}


def used_mib() -> int | None:
    """Of all GPUs; None where nvidia-smi does not tell."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return sum(int(line) for line in said.split())
