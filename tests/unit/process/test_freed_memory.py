"""What is free between pieces that live on goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import time
from pathlib import Path
from prfaas.process.freed_memory import giving_back_freed

def resident_kib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

before = resident_kib()
pieces = [bytes(2000) for _ in range(50_000)]
live_on = pieces[::50]
del pieces
assert resident_kib() > before + 80_000
with giving_back_freed(every_s=0.01):
    while resident_kib() > before + 40_000:
        time.sleep(0.01)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_it_goes_back_while_others_stay() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
