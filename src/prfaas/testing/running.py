"""Real deployments for tests and benchmarks: `prfaas up` as a subprocess, and a stock engine.

Everything is started the way a user starts it; nothing here is faked. What is constructed begins to
start; ``with``, or `wait_until_ready`, waits until it serves.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from prfaas.core.deployment import Deployment, EngineConfig, MachineConfig, parse_deployment
from prfaas.launch import gateway_pages, supervisor
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import Command, engine_command, gateway_command, installed_vllm
from prfaas.launch.sessions import Session, is_tracker, members
from prfaas.testing.calling import Answer, call, trust_agents

START_TIMEOUT_S = 900.0
"""Ends a start that hangs. A stack of four engines starts in 45 s on two good cores, and in minutes
on two slow ones that others use too."""

_BFLOAT16, _AMX = {"avx512bw", "bf16"}, {"amx_tile"}
"""Any of these among a CPU's flags: oneDNN has kernels for bfloat16 (with AVX-512, or Arm's own
instructions); vLLM has its own for MLA."""


def end_all(processes: Collection[subprocess.Popen[Any]]) -> None:
    """SIGTERM for all, stopped ones too; what has not ended by it soon is killed."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def engine_args_here(kind: str) -> tuple[str, ...]:
    """What a tiny model's engines need on this machine.

    Without FlashInfer: on Hopper vLLM would take its kernel for Gated DeltaNet without looking. On
    CPUs without instructions for bfloat16, which take ten times as long: another format, where
    vLLM's kernels have one. MLA without AMX too: its reference kernels round a position by the
    prompt's length, in float32 thousands of times less than what a lost block does.
    """
    if installed_vllm() == "cpu":
        wanted = _AMX if kind == "mla" else _BFLOAT16
        return () if kind == "gdn" or _cpu_has(wanted) else ("--dtype", "float32")
    if kind == "gdn" and importlib.util.find_spec("flashinfer") is None:
        return ("--gdn-prefill-backend", "triton")
    return ()


def _cpu_has(any_of: Set[str]) -> bool:
    return not any_of.isdisjoint(Path("/proc/cpuinfo").read_text().split())


def _serves(url: str, deployment: Deployment) -> bool:
    """Whether the gateway at ``url`` uses every engine, and every line too."""
    ready = _answer(f"{url}/ready")
    if ready is None:
        return False
    cut = [w for w in ready.json()["warnings"] if w.startswith("no KV can travel")]
    return not cut and not unused_engines(url, deployment)


def _answers(url: str) -> bool:
    return _answer(url) is not None


def _answer(url: str) -> Answer | None:
    """If it is a 200."""
    try:
        answer = call(url, timeout_s=5.0)
    except OSError:
        return None
    return answer if answer.status == 200 else None


def unused_engines(url: str, deployment: Deployment) -> list[str]:
    """Engines that the gateway at ``url`` gives no work."""
    return gateway_pages.unused_engines(call(f"{url}/metrics").body.decode(), deployment)


class _Process(ABC):
    """A subprocess in a session of its own, its output in a log file."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @abstractmethod
    def ready(self) -> bool:
        """Whether it does all that it was started for."""

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with the log's end if it never is."""
        self._wait_until(self.ready)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if time.monotonic() > until or self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-4000:]
                exit_status = self.process.poll()
                raise RuntimeError(f"{self.log.stem} not ready (exit {exit_status}):\n{tail}")
            time.sleep(0.25)

    def stop(self) -> int:
        """Ctrl-C, then the exit status; the whole session is killed after a minute."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class RunningDeployment(_Process):
    """`prfaas up` with a deployment file; constructed once its addresses are known.

    Args:
        file: the deployment file.
        home: its state (logs, resolved deployment) goes here; one deployment a directory.
        journal: where its gateway writes down what happens.
    """

    def __init__(
        self,
        file: Path,
        home: Path,
        *,
        model: str | None = None,
        journal: Path | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{free_address()}"
        command = [sys.executable, "-m", "prfaas.cli.main", "up", str(file)]
        command += ["--listen", self.url.removeprefix("http://")]
        if model is not None:
            command += ["--model", model]
        if journal is not None:
            command += ["--events", str(journal)]
        super().__init__(command, {"XDG_STATE_HOME": str(home)}, home / "up.log")
        files = (home / "prfaas" / "runs").glob
        try:
            self._wait_until(lambda: any(files("*/deployment.json")))
        except BaseException:
            self.stop()
            raise
        (file,) = files("*/deployment.json")
        self.run_directory = file.parent
        self.deployment = parse_deployment(file.read_bytes(), source=str(file))
        """With every address filled in."""
        trust_agents(self.deployment)

    def ready(self) -> bool:
        return _serves(self.url, self.deployment)

    def engine(self, name: str) -> EngineConfig:
        return next(e for e in self.deployment.engines if e.name == name)

    def admin(self, machine: str) -> str:
        """Base URL of the machine's agent; the only machine of a cluster may have its name."""
        return next(m.agent.admin_url for m in self.deployment.machines if m.name == machine)

    def pids(self, name: str) -> list[int]:
        """Processes of the session that runs ``name`` now, its leader first. Python's resource
        trackers are left out: they unlink the shared memory of the others when those are killed."""
        record = json.loads((self.run_directory / "processes.json").read_bytes())
        session = msgspec.convert(record["sessions"][name], Session)
        found = [pid for pid in members(session) if not is_tracker(pid)]
        return sorted(found, key=lambda pid: (pid != session.leader, pid))


class SecondGateway(_Process):
    """One more gateway over a running deployment's engines, with a scheduler of its own: its keys
    in place of the file's. ``slots``: what it takes for every engine's ``max_num_seqs``; ``name``:
    the first by name decides roles for all; ``engines``: it knows no others."""

    def __init__(
        self, running: RunningDeployment, home: Path, *, slots: int | None = None,
        name: str | None = None, engines: Collection[str] | None = None, **scheduler: Any,
    ) -> None:  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        address = free_address()
        self.url = f"http://{address}"
        whole = running.deployment
        own = {"listen": address, "advertise": None, "name": name or whole.gateway.name}
        gateway = msgspec.structs.replace(whole.gateway, **own)
        changed = msgspec.structs.replace(
            whole,
            gateways=(gateway,),
            scheduler=msgspec.structs.replace(whole.scheduler, **scheduler),
        )
        changed = changed.with_machines(partial(_known, slots=slots, engines=engines))
        self._deployment = changed
        file = home / "deployment.json"
        file.write_bytes(msgspec.json.encode(changed))
        command = gateway_command(file)
        super().__init__(list(command.arguments), dict(command.environment), home / "gateway.log")

    def ready(self) -> bool:
        return _serves(self.url, self._deployment)


def _known(
    machine: MachineConfig, *, slots: int | None, engines: Collection[str] | None
) -> MachineConfig:
    known = [e for e in machine.engines if engines is None or e.name in engines]
    if slots is not None:
        known = [msgspec.structs.replace(e, max_num_seqs=slots) for e in known]
    return msgspec.structs.replace(machine, engines=tuple(known))


class PlainEngine(_Process):
    """A stock vLLM server without our connector: what answers are compared with.

    It has the schedule of ``running``'s engines: block size, chunk size, threads, and the GPUs of
    the one called ``like`` (None: a decode engine). ``args`` are more of vLLM's own.
    """

    def __init__(
        self, running: RunningDeployment, home: Path, *, cpus: str | None = None,
        like: str | None = None, args: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{free_address()}"
        beside = running.engine(like) if like else supervisor.decode_engine(running.deployment)
        engine = EngineConfig(
            name="plain", role="decode", url=self.url, cpus=cpus, args=args,
            gpus=beside.gpus, gpu_memory_share=beside.gpu_memory_share,
        )  # fmt: skip
        command = engine_command(running.deployment, engine, vllm=installed_vllm(), connector=False)
        super().__init__(list(command.arguments), dict(command.environment), home / "plain.log")

    def ready(self) -> bool:
        return _answers(f"{self.url}/health")


class Compared(NamedTuple):
    """A deployment, and what its answers are compared with."""

    running: RunningDeployment
    plain: PlainEngine


@contextmanager
def compared(
    file: Path, home: Path, *, model: str | None = None, args: tuple[str, ...] = ()
) -> Iterator[Compared]:
    """Both started side by side: what each waits for leaves the cores to the other. ``args``: of
    the stock engine, as the file's engines have them."""
    with ExitStack() as stack:
        running = stack.push(RunningDeployment(file, home / "up", model=model))
        if installed_vllm() == "gpu":
            running.wait_until_ready()  # its first engine tunes the kernels for all
        plain = stack.push(PlainEngine(running, home / "plain", args=args))
        running.wait_until_ready()
        plain.wait_until_ready()
        yield Compared(running, plain)


class _Command(_Process):
    """Any process of a deployment, ready when ``probe`` answers."""

    def __init__(self, command: Command, log: Path, probe: str) -> None:
        super().__init__(list(command.arguments), command.environment, log)
        self._probe = probe

    def ready(self) -> bool:
        return _answers(self._probe)


def running_command(command: Command, *, log: Path, probe: str) -> AbstractContextManager[object]:
    """``command`` as a process; entering waits until ``probe`` answers, leaving ends it."""
    return _Command(command, log, probe)
