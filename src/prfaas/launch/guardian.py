"""``python -m prfaas.launch.guardian RUN``: ends what a killed `prfaas up` leaves, at once.

Its children get SIGTERM when it dies, but an engine that is just starting may sit on that for
minutes, waiting for a child of its own. The guardian is in nobody's session. It blocks on the run's
lock, which the kernel frees with `prfaas up`, however that ends, and then does what the next start
would do. A run that was closed has nothing left to end.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from prfaas.launch.run_directory import reap_run


def guard(run: Path) -> subprocess.Popen[bytes]:
    """Start a guardian for the run directory. Never wait for it: it outlives the caller."""
    return subprocess.Popen(
        [sys.executable, "-m", "prfaas.launch.guardian", str(run)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main(run: Path) -> None:
    """Wait until the run's `prfaas up` is gone, then end what it left."""
    try:
        lock = os.open(run / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # The run has ended already, without a trace.
    fcntl.flock(lock, fcntl.LOCK_EX)
    reap_run(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
