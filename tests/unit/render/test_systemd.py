"""Units: complete, accepted by systemd where it is installed, and hardened by its own measure."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.render.examples import example, spilling

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.render import systemd

ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = {"agent": 2.0, "gateway": 2.0, "engine": 2.5}
"""Of 10, as ``systemd-analyze security`` counts; 2.5: an engine has devices and compiles code."""


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    binary = folder / "bin" / "prfaas"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    files = systemd.render(example("fleet"), prefix=str(folder), file="/etc/prfaas/d.yaml")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_every_machine_has_its_processes(units: Path) -> None:
    there = {p.name for p in (units / "west-1").iterdir()}
    assert there == {
        "prfaas.target",
        "prfaas.target.d",
        "prfaas-agent-west-1-agent.service",
        "prfaas-engine-west-1-p.service",
        "prfaas-engine-west-1-d.service",
    }
    assert (units / "gateway-2" / "prfaas-gateway-gateway-2.service").is_file()
    engine = (units / "west-1" / "prfaas-engine-west-1-d.service").read_text()
    assert "After=prfaas-agent-west-1-agent.service" in engine
    assert "drain west-1-d /etc/prfaas/d.yaml --within 600s" in engine


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_systemd_takes_them(units: Path) -> None:
    for folder in (f for f in units.iterdir() if f.name != "bin"):
        done = subprocess.run(
            [str(ANALYZE), "verify", *(str(path) for path in folder.iterdir() if path.is_file())],
            capture_output=True, text=True,
        )  # fmt: skip
        complaints = [line for line in done.stderr.splitlines() if "prfaas" in line]
        assert done.returncode == 0, complaints
        assert complaints == []


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_they_are_hardened(units: Path) -> None:
    for unit in units.glob("*/*.service"):
        done = subprocess.run(
            [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)],
            capture_output=True, text=True,
        )  # fmt: skip
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert level is not None, done.stderr
        assert float(level[1]) <= MOST_EXPOSED[unit.name.split("-")[1]], done.stdout


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/var/lib/prfaas-kv", ["StateDirectory=prfaas-kv", "StateDirectoryMode=0700"]),
        ("/mnt/nvme/kv", ["ReadWritePaths=-/mnt/nvme/kv"]),
    ],
)
def test_an_agent_may_write_its_cache_and_nothing_else(path: str, lines: list[str]) -> None:
    files = systemd.render(spilling("fleet", path), prefix="/opt", file="/etc/prfaas/d.yaml")
    agents = [text.splitlines() for name, text in files.items() if "prfaas-agent" in name]
    assert agents
    for text in agents:
        assert [line for line in lines if line not in text] == []
    with pytest.raises(ConfigError, match="units see no home"):
        systemd.render(spilling("fleet", "/home/me/kv"), prefix="/opt", file="/etc/prfaas/d.yaml")


def test_what_up_would_choose_must_be_in_the_file() -> None:
    with pytest.raises(ConfigError, match="engine 'east-prefill': url"):
        systemd.render(example("small"), prefix="/opt/prfaas", file="/etc/prfaas/d.yaml")


def file(
    *,
    engine: str = "",
    url: str = "http://127.0.0.1:8001",
    agent: str = "",
    gateway: str = "",
    model: str = "hub/m",
) -> Deployment:
    """One machine ``m1`` and a gateway on it, of its name."""
    tls = "{ca: /etc/p/ca.pem, cert: /etc/p/c.pem, key: /etc/p/k.pem}"
    return parse_deployment(
        f"""
clusters:
  - name: west
    kind: pd
    machines:
      - name: m1
        agent: {{name: a, socket: /run/prfaas/a.sock, listen: "10.0.0.1:7400",
                admin: "10.0.0.1:7401"{agent or f", tls: {tls}"}}}
        engines: [{{name: d, role: decode, url: "{url}"{engine}}}]
gateways: [{{name: m1, agent_tls: {tls}{gateway}}}]
model: {{path: "{model}"}}
""",
        source="here",
    )


def rendered(
    deployment: Deployment, *, prefix: str = "/opt/prfaas", path: str = "/etc/prfaas/d.yaml"
) -> dict[str, str]:
    """Files by path."""
    return systemd.render(deployment, prefix=prefix, file=path)


def test_every_process_has_a_place_for_temporary_files() -> None:
    """A strictly protected system has none else, and vLLM does not start without."""
    units = {k: v for k, v in rendered(example("fleet")).items() if k.endswith(".service")}
    for name, text in units.items():
        assert "ProtectSystem=strict" in text, name
        assert "PrivateTmp=yes" in text, name


def test_who_was_started_ends_its_own_processes() -> None:
    """Workers and ranks are told by whoever started them, once."""
    for path, text in rendered(example("fleet")).items():
        if path.endswith(".service"):
            assert "KillMode=mixed" in text.splitlines()


def test_an_agent_that_is_started_again_restarts_no_engine() -> None:
    """systemd restarts whatever requires a unit that it restarts; engines load for minutes, and
    find their agent again by themselves."""
    for path, text in rendered(example("fleet")).items():
        if "prfaas-engine" in path:
            lines = text.splitlines()
            (after,) = (line for line in lines if line.startswith("After=prfaas-agent"))
            assert after.replace("After", "Wants") in lines
            assert not [line for line in lines if line.startswith(("Requires", "BindsTo"))]


def test_a_machines_folder_and_its_gateways_fit_on_one_machine() -> None:
    """Also where both have one name."""
    files = rendered(file())
    wanted = {
        name
        for path, text in files.items()
        if path.startswith("m1/prfaas.target.d/")
        for name in text.partition("Wants=")[2].split()
    }
    assert wanted == {Path(path).name for path in files if path.endswith(".service")}
    assert len(wanted) == 3
    targets = {text for path, text in rendered(example("fleet")).items() if path.endswith("target")}
    assert len(targets) == 1


@pytest.mark.parametrize(
    ("said", "units"),
    [
        ({"gateway": ", api_keys_env: KEYS"}, {"gateway"}),
        ({"gateway": ", tenants: [{name: t, api_keys_env: T}]"}, {"gateway"}),
        ({"gateway": ", operator_keys_env: OPS"}, {"gateway", "engine"}),
        ({"engine": ", api_key_env: KEY"}, {"gateway", "engine"}),
        ({}, set()),
    ],
)
def test_variables_of_the_file_come_from_a_file_beside_it(
    said: dict[str, str], units: set[str]
) -> None:
    line = "EnvironmentFile=/etc/prfaas/environment"
    found = {
        Path(path).name.split("-")[1]
        for path, text in rendered(file(**said)).items()
        if line in text.splitlines()
    }
    assert found == units


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"model": "/root/models/m"}, "model: /root/models/m: units see no home"),
        ({"model": "./m"}, "give an absolute path"),
        ({"gateway": ", tls: {cert: /home/me/c.pem, key: /etc/k.pem}"}, "gateway 'm1': /home/me"),
        ({"engine": ", api_key_file: keys/d"}, "engine 'd': api_key_file: keys/d: units start in"),
        ({"gateway": ", listen: '127.0.0.1:0'"}, "gateway 'm1': a port for listen"),
        ({"agent": ", plaintext: true", "url": "http://10.0.0.1:8001"}, "engine 'd': kv_events"),
    ],
)
def test_what_units_would_not_see_is_refused(said: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rendered(file(**said))


@pytest.mark.parametrize("option", ["prefix", "path"])
def test_a_relative_place_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="absolute"):
        rendered(file(), **{option: "prfaas/x"})


def test_only_who_listens_below_1024_may() -> None:
    deployment = file(gateway=", listen: '127.0.0.1:443'")
    for path, text in rendered(deployment).items():
        if path.endswith(".service"):
            assert ("CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in text) == ("gateway" in path)


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_odd_paths_are_one_word(tmp_path: Path) -> None:
    """As systemd reads it: a path with blanks, a specifier's sign, a variable's."""
    odd = tmp_path / "a b%c$d"
    (odd / "bin").mkdir(parents=True)
    (odd / "bin" / "prfaas").write_text("#!/bin/sh\n")
    (odd / "bin" / "prfaas").chmod(0o755)
    deployment = file(model=f"{odd}/m")
    found = rendered(deployment, prefix=str(odd), path=f"{odd}/d.yaml")
    for path, text in found.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    units = [str(path) for path in tmp_path.glob("m1/*.service")]
    done = subprocess.run([str(ANALYZE), "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f'"{odd}/d.yaml"'.replace("%", "%%").replace("$", "$$")
        in found["m1/prfaas-agent-a.service"]
    )
