"""Several gateway processes at one port: one of them dies, an engine is drained, all end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from prfaas.cli.gateway_workers import WorkerCommands, deployment_of
from prfaas.cli.main import main
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import free_address
from prfaas.testing.gateway_process import is_ready
from prfaas.testing.mock_deployment import MockDeployment

ASKED = 24


async def asked(url: str) -> None:
    """Over connections of their own, so that the kernel spreads them."""

    async def one(number: int) -> None:
        async with (
            aiohttp.ClientSession(url) as client,
            client.post("/v1/completions", json={"prompt": f"{number}" * 80}) as response,
        ):
            assert response.status == 200, await response.text()
            await response.read()

    await asyncio.gather(*(one(number) for number in range(ASKED)))


async def answered(admin: str) -> int:
    """How many requests a worker has answered."""
    async with aiohttp.ClientSession(admin) as client, client.get("/requests") as response:
        return len((await response.json())["requests"])


async def ready(admins: list[str], workers: asyncio.subprocess.Process) -> None:
    for admin in admins:
        async with aiohttp.ClientSession(admin) as client:
            while workers.returncode is None:
                try:
                    if await is_ready(client):
                        break
                except aiohttp.ClientError:
                    pass  # It is started again.
                await asyncio.sleep(0.05)
    assert workers.returncode is None


async def drained(admins: list[str], file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prfaas.cli.main", "drain", "d2", str(file), "--no-wait",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0
    for admin in admins:
        assert f"d2 at {admin}: empty" in said.decode()


def neighbours() -> tuple[str, str]:
    """Two addresses on which nobody listens, one port after the other."""
    one = free_address()
    while True:
        before, one = one, free_address()
        host, _, port = before.rpartition(":")
        if one == f"{host}:{int(port) + 1}":
            return before, one


async def test_workers_share_a_port_and_one_of_them_dies(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running():
        first, second = neighbours()
        admins = [f"http://{first}", f"http://{second}"]
        file, log = tmp_path / "deployment.yaml", tmp_path / "gateway.log"
        file.write_text(
            f'{mock.deployment_text()}  listen: "127.0.0.1:0"\n  admin: "{first}"\n  workers: 2\n'
        )
        with log.open("wb") as stderr:
            workers = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "prfaas.cli.main", "gateway", str(file),
                "--events", str(tmp_path / "events.jsonl"), stderr=stderr,
            )  # fmt: skip
        try:
            await ready(admins, workers)
            said = log.read_text()
            urls = Counter(re.findall(r"listening on (\S+)", said))
            assert list(urls.values()) == [2]
            url = next(iter(urls))
            # Each counts what it has answered itself; which of them a connection finds is chance.
            while not all([await answered(admin) for admin in admins]):
                await asked(url)
            await drained(admins, file)
            one = re.search(r"worker 1 is process (\d+)", said)
            assert one is not None
            os.kill(int(one[1]), signal.SIGKILL)
            while "worker 1 ended" not in log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asked(url)  # The other one has the port to itself.
            await ready(admins, workers)
            await asked(url)
            workers.send_signal(signal.SIGTERM)
            assert await workers.wait() == 0
            assert "Traceback" not in log.read_text()
        finally:
            if workers.returncode is None:
                workers.kill()
            await workers.wait()
        assert all((tmp_path / f"events-{n}.jsonl").stat().st_size for n in (1, 2))


async def test_a_worker_that_is_started_again_with_half_a_file_lets_nobody_in(
    tmp_path: Path,
) -> None:
    """Its keys are gone: those that run refuse the file, and so does one that takes the place of
    another."""
    mock = MockDeployment(keys="[a-key]")
    async with mock.running():
        first, second = neighbours()
        admins = [f"http://{first}", f"http://{second}"]
        file, log = tmp_path / "deployment.yaml", tmp_path / "gateway.log"
        whole = f'{mock.deployment_text()}  listen: "127.0.0.1:0"\n  admin: "{first}"\n'
        file.write_text(whole)
        with log.open("wb") as stderr:
            workers = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "prfaas.cli.main", "gateway", str(file), "--workers", "2",
                stderr=stderr,
            )  # fmt: skip
        try:
            await ready(admins, workers)
            said = log.read_text()
            url = re.findall(r"listening on (\S+)", said)[0]
            file.write_text(whole.replace("api_keys: [a-key]", "api_keys: []"))
            one = re.search(r"worker 1 is process (\d+)", said)
            assert one is not None
            os.kill(int(one[1]), signal.SIGKILL)
            while "worker 1 ended (status 2)" not in log.read_text():
                assert log.read_text().count(f"listening on {url}") == 2
                await asyncio.sleep(0.02)
            assert "has no keys of clients any more" in log.read_text()
            file.write_text(whole)
            await ready(admins, workers)
            async with (
                aiohttp.ClientSession(url) as client,
                client.post("/v1/completions", json={"prompt": "a"}) as response,
            ):
                assert response.status == 401
        finally:
            if workers.returncode is None:
                workers.kill()
            await workers.wait()


async def test_a_port_that_another_has_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mock = MockDeployment()
    async with mock.running():
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        async with taken:
            port = taken.sockets[0].getsockname()[1]
            file = tmp_path / "deployment.yaml"
            file.write_text(
                f'{mock.deployment_text()}  listen: "127.0.0.1:{port}"\n'
                f'  admin: "{free_address()}"\n'
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "prfaas.cli.main", "gateway", str(file), "--workers", "2"
            )
            assert await process.wait() == 2
    assert "cannot listen there" in capfd.readouterr().err


def test_who_was_asked_for_keys_while_workers_run_is_asked_by_those_that_come_later(
    tmp_path: Path,
) -> None:
    file = tmp_path / "deployment.yaml"
    half = (
        "clusters: [{name: west, kind: pd, agent: {name: a, admin: '127.0.0.1:9', plaintext: true},"
        " engines: [{name: d1, role: decode, url: 'http://127.0.0.1:1'}]}]\n"
        "gateway: {admin: '127.0.0.1:9100', workers: 2"
    )
    file.write_text(f"{half}}}\n")
    args = Namespace(deployment=file, name=None, workers=None, worker=None)
    command = WorkerCommands(args, deployment_of(args))
    command.look()
    assert "--asked" not in command(1)
    for more in (", api_keys: [key], operator_keys: [key]}", "}", ""):
        file.write_text(f"{half}{more}\n")
        command.look()
        assert command(1)[-6:] == ["--asked", "clients", "--asked", "operators", "--worker", "1"]


def test_a_worker_speaks_no_plaintext_where_the_file_was_another(tmp_path: Path) -> None:
    """It listens where the others do, whatever the file says by now: here nothing of that, and
    nothing of TLS."""
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "clusters: [{name: west, kind: pd, agent: {name: a, admin: '127.0.0.1:9', plaintext: true},"
        " engines: [{name: d1, role: decode, url: 'http://127.0.0.1:1'}]}]\n"
        "gateway: {admin: '127.0.0.1:9100'}\n"
    )
    args = Namespace(deployment=file, name=None, workers=2, worker=1, asked=[], at="127.0.0.1:8000")
    assert deployment_of(args).gateway.listen == "127.0.0.1:8000"
    args.at = "0.0.0.0:8000"
    with pytest.raises(ConfigError, match=r"deployment\.yaml: .*plaintext"):
        deployment_of(args)


@pytest.mark.parametrize(
    ("workers", "gateway", "says"),
    [
        ("2", "", "need an address for operators"),
        ("0", "admin: '127.0.0.1:9100'", "1 to 64"),
        ("3", "admin: '127.0.0.1:65534'", "would be at port 65536"),
        ("3", "admin: '127.0.0.1:7998'", "listen has one of them"),
    ],
)
def test_what_cannot_be_is_said(
    workers: str, gateway: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "clusters: [{name: west, kind: pd, agent: {name: a, admin: '127.0.0.1:9', plaintext: true},"
        " engines: [{name: d1, role: decode, url: 'http://h:1'}]}]\n"
        f"gateway: {{listen: '127.0.0.1:8000', {gateway}}}\n"
    )
    assert main(["gateway", str(file), "--workers", workers]) == 2
    assert says in capsys.readouterr().err
