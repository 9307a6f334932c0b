"""One process of a deployment inside its Ray actor: started, watched, told where the others are.

The actor ends itself when its process ends, and Ray starts it again: here, or on another node of
the cluster where this one is gone. Output goes to the actor's own, which Ray's dashboard shows.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError, PrfaasError
from prfaas.launch.addresses import local_model
from prfaas.launch.commands import (
    Command,
    agent_command,
    engine_command,
    gateway_command,
    installed_vllm,
)
from prfaas.launch.ray.asking import answers, unused_by
from prfaas.launch.ray.board import Report
from prfaas.launch.ray.certificates import localized
from prfaas.launch.ray.placing import Kind
from prfaas.launch.ray.whereabouts import sockets, whereabouts
from prfaas.launch.restart_pause import pause_after
from prfaas.launch.run_directory import place
from prfaas.launch.sessions import Session, end_session, session_of, tied_to_parent
from prfaas.tls.agents import Trust, tools_context

_PERIOD_S = 1.0
_GRACE_S: Mapping[Kind, float] = {"agent": 10.0, "engine": 20.0, "gateway": 10.0}
"""A gateway's comes on top of what answers under way may take (`GatewayConfig.drain_s`)."""
_LAST_LINES = 8
"""Of its output, told with why it ended."""


class Board(Protocol):
    """`board.Board` from elsewhere: None where it does not answer now."""

    def tell(self, name: str, report: bytes, known: str) -> tuple[str, bytes] | None: ...

    def fields(self, name: str) -> dict[str, str] | None: ...

    def trouble(self, name: str, why: str, *, ended: bool) -> int | None: ...


class _Left(msgspec.Struct):
    """What a process leaves its successor on the same node to end. See `run_directory.place`."""

    place: str
    session: Session


MakeCommand = Callable[[Deployment, str, Kind, Path], tuple[Command, str]]
"""Of a resolved deployment: a process's command, and the URL that answers 200 when it is ready."""


def grace_of(deployment: Deployment, name: str, kind: Kind) -> float:
    """Seconds that a process may take to end in order."""
    gateway = next((g for g in deployment.gateways if g.name == name), None)
    return _GRACE_S[kind] + (0.0 if gateway is None else gateway.drain_s)


class Process:
    """Runs one process from construction on.

    Args:
        deployment: as `Board` has it.
        host: this node's address.
        node: this node's id.
        folder: the deployment's on this node: private, and everything of it goes there.
        files: texts by name: certificates.
        died: called in a thread of ours when the process has ended by itself.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        deployment: bytes,
        *,
        host: str,
        node: str,
        folder: Path,
        files: Mapping[str, str],
        board: Board,
        died: Callable[[], None],
        command: MakeCommand | None = None,
    ) -> None:
        self.name, self.kind = name, kind
        self._board, self._died = board, died
        self._base = msgspec.json.decode(deployment, type=Deployment)
        self._host, self._node = host, node
        self._shared, self._folder = folder, folder / name
        self._files = dict(files)
        self._make_command = command or command_of
        self._fields: dict[str, str] | None = None
        self._known = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._session: Session | None = None
        self._probe, self._trust = "", ssl.create_default_context()
        self._deployment = self._base
        self._was_ready = False
        self._unused: list[str] | None = None
        """Asked for until it is empty: later the gateway's own metrics tell."""
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def pid(self) -> int | None:
        """Of the process, while one runs."""
        return None if self._child is None else self._child.pid

    def stop(self) -> None:
        """End it in order, and leave nothing on this node."""
        self._stopping.set()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        for path in sockets(self._fields or {}):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._shared.rmdir()  # By the last one.

    def _run(self) -> None:
        try:
            _make_private(self._shared)
            _make_private(self._folder)
            self._end_predecessor()
            for name, text in self._files.items():
                _write_private(self._folder / name, text.encode())
        except (OSError, PrfaasError) as error:
            self._gives_up(str(error))
            return
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception as error:  # Whatever it is, the process is watched on.
                self._board.trouble(self.name, f"{type(error).__name__}: {error}", ended=False)
            if self._child is not None and (status := self._child.poll()) is not None:
                self._end()
                how = f"killed by signal {-status}" if status < 0 else f"ended with {status}"
                self._gives_up("\n".join([how, *self._lines]))
                return
            self._stopping.wait(_PERIOD_S)
        self._end()  # Here: when this thread ends, the kernel tells its child so.

    def _look(self) -> None:
        """Tell where it is, and take over where the others are."""
        if self._fields is None:
            before = self._board.fields(self.name)
            if before is None:
                return
            self._fields = whereabouts(
                self._base,
                self.name,
                self.kind,
                host=self._host,
                folder=self._shared,
                before=before,
            )
        ready = self._ready()
        self._was_ready = self._was_ready or ready
        if ready and self._unused != []:
            self._unused = self._find_unused()
        report = Report(
            node=self._node, fields=self._fields, ready=ready, unused=self._unused or []
        )
        told = self._board.tell(self.name, msgspec.json.encode(report), self._known)
        if told is not None and told[1]:
            self._take(told[1])
            self._known = told[0]

    def _take(self, text: bytes) -> None:
        """Every process reads its file again when that has changed; an engine needs of it only what
        stays."""
        deployment = msgspec.json.decode(text, type=Deployment)
        deployment = localized(deployment, self._folder)
        model = local_model(deployment.model) if self.kind == "engine" else deployment.model
        deployment = msgspec.structs.replace(deployment, model=model)
        file = self._folder / "deployment.json"
        _write_private(file, msgspec.json.encode(deployment))
        self._deployment = deployment
        if self._child is None:
            command, self._probe = self._make_command(deployment, self.name, self.kind, file)
            self._trust = _trust(deployment, self.name, self.kind)
            self._start(command)

    def _start(self, command: Command) -> None:
        """By the thread that lives as long as this process: the child ends with it."""
        self._child = subprocess.Popen(
            command.arguments,
            env=command.environment_in({**os.environ, "TMPDIR": str(self._folder)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tied_to_parent(),
        )
        threading.Thread(target=self._pass_on, args=[self._child], daemon=True).start()
        self._session = session_of(self._child.pid)
        if self._session is not None:
            left = _Left(place(), self._session)
            _write_private(self._folder / "left.json", msgspec.json.encode(left))

    def _pass_on(self, child: subprocess.Popen[bytes]) -> None:
        """Its output to the actor's own, the last lines kept."""
        assert child.stdout is not None
        with child.stdout as output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                print(text, file=sys.stderr, flush=True)

    def _ready(self) -> bool:
        """Whether it answers its health check; a gateway: whether it can serve."""
        if not self._probe or self._child is None or self._child.poll() is not None:
            return False
        return answers(self._probe, self._trust)

    def _find_unused(self) -> list[str] | None:
        if self.kind != "gateway":
            return []
        url = self._probe.replace("/ready", "/metrics")
        return unused_by(self.name, url, self._trust, self._deployment)

    def _gives_up(self, why: str) -> None:
        """Not in order, so that Ray starts the actor again; the oftener it ended, the later."""
        ends = self._board.trouble(self.name, why, ended=True) or 1
        self._stopping.wait(pause_after(ends))
        if not self._stopping.is_set():
            self._died()

    def _end(self) -> None:
        """What is left of it."""
        if self._session is not None:
            grace_s = grace_of(self._base, self.name, self.kind) if self._was_ready else 2.0
            end_session(self._session, grace_s=grace_s)
            self._session = None
            if self._child is not None:
                self._child.wait()
            (self._folder / "left.json").unlink(missing_ok=True)

    def _end_predecessor(self) -> None:
        """Of an actor that was killed here."""
        try:
            left = msgspec.json.decode((self._folder / "left.json").read_bytes(), type=_Left)
        except (OSError, msgspec.DecodeError):
            return
        if left.place == place():
            end_session(left.session, grace_s=2.0)


def command_of(deployment: Deployment, name: str, kind: Kind, file: Path) -> tuple[Command, str]:
    """The product's own."""
    if kind == "agent":
        agent = next(a for a in deployment.agents if a.name == name)
        command = agent_command(agent, file, hidden=deployment.secret_variables)
        return command, f"{agent.admin_url}/health"
    if kind == "engine":
        engine = next(e for e in deployment.engines if e.name == name)
        command = engine_command(deployment, engine, vllm=installed_vllm())
        return command, f"{engine.url}/health"
    gateway = next(g for g in deployment.gateways if g.name == name)
    return gateway_command(file, name=name), f"{gateway.own_urls[0]}/ready"


def _trust(deployment: Deployment, name: str, kind: Kind) -> ssl.SSLContext:
    """What a process is asked with on its own node."""
    shown: ssl.SSLContext | bool | None
    shown = tools_context(deployment) if kind == "agent" else None
    if kind == "engine":
        url = next(e.url for e in deployment.engines if e.name == name)
        shown = Trust(deployment).of(f"{url}/")
    if kind == "gateway":
        own = deployment.of_gateway(name)
        shown = Trust(own).of_own(f"{own.gateway.own_urls[0]}/")
    return shown if isinstance(shown, ssl.SSLContext) else ssl.create_default_context()


def _make_private(folder: Path) -> None:
    """Below /tmp, where anybody may make things of this name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"{folder} is somebody else's; have it removed")
    folder.chmod(0o700)


def _write_private(path: Path, content: bytes) -> None:
    scratch = path.with_name(f"{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_bytes(content)
    scratch.rename(path)
