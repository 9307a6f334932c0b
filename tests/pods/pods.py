"""Pods of rendered manifests, started by podman: what a node does with them, without a cluster.

Each pod has its network namespace (`prfaas.testing.sites`), and each of its containers image, user,
capabilities, read-only root, memory limit, environment and volumes as the manifest says. Start-up
probes are waited for, readiness probes are asked. What cert-manager's driver mounts is made by our
own authority. What an API server does is not here: Services, NetworkPolicies, restarts. Needs root,
podman and runc.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from prfaas.testing.sites import Sites
from prfaas.tls.authority import issue

Object = dict[str, Any]
_PODMAN = ("podman", "--runtime", "runc")
_USER = 10001
HANG_S = 900.0


def objects_of(kind: str, folder: Path) -> Iterator[Object]:
    """All manifests of one kind that a rendered base has."""
    for file in sorted(folder.glob("*.yaml")):
        yield from (o for o in yaml.safe_load_all(file.read_text()) if o and o.get("kind") == kind)


class Pod:
    """One pod of a workload; a context manager that ends its containers.

    Args:
        workload: the StatefulSet or Deployment that it is of.
        hosts: what names resolve to, as a cluster's DNS would say.
        base: the rendered base, which holds what its ConfigMap is made of.
        secrets: name of a Secret -> its keys and values.
        authority: the directory of the authority that certificates are of.
    """

    def __init__(
        self,
        name: str,
        workload: Object,
        *,
        sites: Sites,
        hosts: Mapping[str, str],
        base: Path,
        secrets: Mapping[str, Mapping[str, str]],
        authority: Path,
    ) -> None:
        self.name, self.address = name, sites.address(name)
        self.seen_at = sites.management_address(name)
        """Where a test reaches it; pods reach each other at ``address``."""
        self._namespace = sites.namespace(name)
        self._spec = workload["spec"]["template"]["spec"]
        self._hosts, self._base, self._secrets = hosts, base, secrets
        self._authority = authority
        self._cleanup = contextlib.ExitStack()
        self.volumes: dict[str, Path] = {}
        """Where they lie on this computer."""

    def __enter__(self) -> Self:
        try:
            for volume in self._spec["volumes"]:
                self.volumes[volume["name"]] = self._volume(volume)
            for container in self._spec["initContainers"]:
                self._start(container)
                self.wait(container)
            for container in self._spec["containers"]:
                self._start(container)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def containers(self) -> list[Object]:
        """Those that are no sidecars."""
        return self._spec["containers"]

    @property
    def all_containers(self) -> list[Object]:
        """Sidecars first."""
        return [*self._spec["initContainers"], *self.containers]

    def wait(self, container: Object) -> None:
        """Until the start-up probe has passed, and the readiness probe where there is one."""
        for what in ("startupProbe", "readinessProbe"):
            until = time.monotonic() + HANG_S
            while (probe := container.get(what)) and not self._passes(container, probe):
                if time.monotonic() > until or not self._runs(container):
                    raise RuntimeError(f"{what} of {self._id(container)}: {self.log(container)}")
                time.sleep(0.5)

    def run_hook(self, container: Object, which: str) -> str:
        """``postStart`` or ``preStop``, as a kubelet runs it: what it says; raises where it
        fails."""
        command = container["lifecycle"][which]["exec"]["command"]
        return _podman("exec", self._id(container), *command)

    def stop(self, container: Object) -> int:
        """As when a pod ends: the hook, then SIGTERM; the exit status (137: it was killed)."""
        self.run_hook(container, "preStop")
        grace = str(self._spec["terminationGracePeriodSeconds"])
        _podman("stop", "--time", grace, self._id(container))
        return int(_podman("inspect", "--format", "{{.State.ExitCode}}", self._id(container)))

    def get(self, asked: Object) -> str | None:
        """What is answered to ``httpGet`` of a probe, as a kubelet asks: it has no certificate, and
        looks at none. None: nothing, or an error."""
        scheme, port = asked.get("scheme", "HTTP").lower(), self._port(asked["port"])
        done = self.run("curl", "--silent", "--fail", "--insecure", "--max-time", "5",
                        f"{scheme}://{self.address}:{port}{asked['path']}")  # fmt: skip
        return done.stdout if done.returncode == 0 else None

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """A command of this computer in the pod's network."""
        whole = ["ip", "netns", "exec", self._namespace, *command]
        return subprocess.run(whole, check=False, input=given, capture_output=True, text=True)

    def completes(self, port: int, prompt: list[int]) -> Object:
        """What its engine at ``port`` answers to whoever asks from within the pod."""
        script = (
            "import json, sys; from prfaas.testing.comparing import complete; "
            f"print(json.dumps(complete('http://127.0.0.1:{port}', None, json.load(sys.stdin))[0]))"
        )
        done = self.run(sys.executable, "-c", script, given=json.dumps(prompt))
        assert done.returncode == 0, done.stderr
        found: Object = json.loads(done.stdout)
        return found

    def log(self, container: Object) -> str:
        """The end of what it has said."""
        told = subprocess.run(
            [*_PODMAN, "logs", "--tail", "200", self._id(container)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return told.stdout + told.stderr

    def _id(self, container: Object) -> str:
        return f"{self._namespace}-{container['name']}"

    def _runs(self, container: Object) -> bool:
        running = _podman("inspect", "--format", "{{.State.Running}}", self._id(container))
        return running.strip() == "true"

    def _passes(self, container: Object, probe: Object) -> bool:
        if "httpGet" in probe:
            return self.get(probe["httpGet"]) is not None
        if "tcpSocket" in probe:
            opens = f"exec 3<>/dev/tcp/{self.address}/{self._port(probe['tcpSocket']['port'])}"
            return self.run("bash", "-c", opens).returncode == 0
        command = [*_PODMAN, "exec", self._id(container), *probe["exec"]["command"]]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def _port(self, port: int | str) -> int:
        named = {p["name"]: p["containerPort"] for c in self.containers for p in c["ports"]}
        return port if isinstance(port, int) else named[port]

    def _start(self, container: Object) -> None:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]
        own = {"POD_NAME": self.name, "POD_IP": self.address}
        environment = {e["name"]: e.get("value", own.get(e["name"])) for e in container["env"]}
        command = [_expanded(word, environment) for word in container["command"]]
        arguments = [
            "run", "--detach", "--name", self._id(container), "--pull", "never",
            "--network", f"ns:/run/netns/{self._namespace}", "--user", f"{_USER}:{_USER}",
            "--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges",
            "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=20000:20000",
            "--memory", container["resources"]["limits"]["memory"].lower().removesuffix("i"),
        ]  # fmt: skip
        arguments += [f"--env={name}={value}" for name, value in environment.items()]
        # `prfaas members` asks for whole names, with their last dot.
        names = [(f"{name}{dot}", at) for name, at in self._hosts.items() for dot in ("", ".")]
        arguments += [f"--add-host={name}:{address}" for name, address in names]
        for mount in container["volumeMounts"]:
            how = "ro" if mount.get("readOnly") else "rw"
            lies = self.volumes[mount["name"]] / mount.get("subPath", "")
            arguments.append(f"--volume={lies}:{mount['mountPath']}:{how}")
        _podman(*arguments, container["image"], *command)
        self._cleanup.callback(_podman, "rm", "--force", "--time", "20", self._id(container))

    def _volume(self, volume: Object) -> Path:
        in_memory = volume.get("emptyDir", {}).get("medium") == "Memory"
        path = Path(tempfile.mkdtemp(prefix="pod-", dir="/dev/shm" if in_memory else None))
        self._cleanup.callback(shutil.rmtree, path)
        if "configMap" in volume:
            shutil.copy(self._base / "template.json", path)
        for key, value in self._secrets.get(volume.get("secret", {}).get("secretName"), {}).items():
            (path / key).write_text(value)
            (path / key).chmod(volume["secret"]["defaultMode"])
        if "csi" in volume:
            self._certify(path, volume["csi"]["volumeAttributes"]["csi.cert-manager.io/dns-names"])
        for entry in (path, *path.iterdir()):
            os.chown(entry, 0, self._spec["securityContext"]["fsGroup"])
        path.chmod(0o2775)
        return path

    def _certify(self, path: Path, name: str) -> None:
        """What cert-manager's driver writes."""
        files = issue(self._authority, name.replace("${POD_NAME}", self.name))
        for key, file in (("ca.crt", files.ca), ("tls.crt", files.cert), ("tls.key", files.key)):
            shutil.copy(file, path / key)
            (path / key).chmod(0o440)


def _expanded(word: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        word = word.replace(f"$({name})", value)
    return word


def _podman(*arguments: str) -> str:
    done = subprocess.run([*_PODMAN, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"podman {arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout
