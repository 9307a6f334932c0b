"""Finding and ending runs: a run is a process that holds its directory's lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.launch.runs import Run, end, running, the_running

# A `prfaas up` as far as others see it: it holds a run directory until Ctrl-C.
OWNER = """
import signal, sys
from pathlib import Path
from prfaas.launch.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
(run.logs / "x.log").touch()
print(run.path.name, flush=True)
try:
    signal.pause()
except KeyboardInterrupt:
    run.close()
"""


@contextmanager
def owner(home: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_is_found_and_ended(tmp_path: Path) -> None:
    assert running(tmp_path) == []
    with pytest.raises(ConfigError, match="no 'prfaas up' runs"):
        the_running(home=tmp_path)
    with owner(tmp_path) as name:
        run = the_running(home=tmp_path)
        assert (run.name, running(tmp_path)) == (name, [run])
        with pytest.raises(ConfigError, match="is still starting"):
            run.readable_file()
        run.deployment_file.write_text("{}")
        assert run.readable_file() == run.deployment_file
        assert end(run, timeout_s=30)
    assert running(tmp_path) == []


def test_of_several_runs_one_must_be_named(tmp_path: Path) -> None:
    with owner(tmp_path) as one, owner(tmp_path) as two:
        with pytest.raises(ConfigError, match=f"several run; name one: .*{one}"):
            the_running(home=tmp_path)
        assert the_running(two, home=tmp_path).name == two
        with pytest.raises(ConfigError, match="no run 'three'"):
            the_running("three", home=tmp_path)


def test_a_run_that_does_not_end_in_time_is_told(tmp_path: Path) -> None:
    with owner(tmp_path) as name:
        # Nobody is asked: the process that is named is gone.
        stranger = Run(name=name, pid=2**22 - 1, path=str(tmp_path / name))
        assert not end(stranger, timeout_s=0.2)
        assert end(the_running(home=tmp_path), timeout_s=30)
