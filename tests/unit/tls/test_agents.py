"""What our tools trust: whoever starts a gateway knows it before its clients' name leads to it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.tls.agents import Trust
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.front import front_context


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server on every interface, whose certificate calls it llm.example."""
    create_authority(tmp_path)
    files = issue(tmp_path, "llm.example")
    with HTTPServer(("0.0.0.0", 0), _Ready) as server:
        server.socket = front_context(files.cert, files.key).wrap_socket(
            server.socket, server_side=True
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _with_gateway(entry: str, *, engine: str = "role: decode") -> Deployment:
    return parse_deployment(
        "clusters: [{name: west, kind: pd, agent: {name: a, plaintext: true}, "
        f"engines: [{{name: d, {engine}}}]}}]\ngateway: {{{entry}}}\n",
        source="test",
    )


@pytest.mark.parametrize("advertise", ["", ", advertise: 'llm.example:443'"])
@pytest.mark.parametrize("ca", ["", ", ca: CA"])
def test_who_has_started_a_gateway_asks_it_whatever_its_certificate_calls_it(
    port: int, tmp_path: Path, advertise: str, ca: str
) -> None:
    ca = ca.replace("CA", str(tmp_path / "ca.pem"))
    deployment = _with_gateway(f"listen: '0.0.0.0:{port}'{advertise}, tls: {{cert: c, key: k{ca}}}")
    (url,) = deployment.gateway.own_urls
    trust = Trust(deployment)
    own = trust.of_own(f"{url}/ready")
    assert isinstance(own, ssl.SSLContext)
    with urlopen(f"{url}/ready", context=own) as answer:
        assert answer.status == 200
    others = trust.of(f"{url}/ready")
    checked = others if isinstance(others, ssl.SSLContext) else ssl.create_default_context()
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(f"{url}/ready", context=checked)


def test_an_engine_of_no_authority_in_the_file_is_of_one_that_this_machine_trusts(
    port: int, tmp_path: Path
) -> None:
    """Not of the gateway's, which may be its operator's own."""
    door = f"listen: '127.0.0.1:8000', tls: {{cert: c, key: k, ca: {tmp_path / 'ca.pem'}}}"
    trust = Trust(_with_gateway(door, engine=f"role: decode, url: 'https://localhost:{port}'"))
    assert trust.of(f"https://localhost:{port}/metrics") is True


def test_an_engine_is_known_by_the_authority_that_the_file_names(port: int, tmp_path: Path) -> None:
    engine = f"role: decode, url: 'https://localhost:{port}', ca: {tmp_path / 'ca.pem'}"
    trust = Trust(_with_gateway("listen: '127.0.0.1:8000'", engine=engine))
    found = trust.of(f"https://localhost:{port}/metrics#d")
    assert isinstance(found, ssl.SSLContext)
    # Its authority is known, so that only its name is wrong.
    with pytest.raises(URLError, match="Hostname mismatch"):
        urlopen(f"https://localhost:{port}/", context=found)


@pytest.mark.parametrize(
    ("entry", "urls"),
    [
        ("listen: '127.0.0.1:8000'", ("http://127.0.0.1:8000",)),
        ("listen: '[::]:443', tls: {cert: c, key: k}", ("https://[::1]:443",)),
        ("listen: '10.0.0.1:80', advertise: 'a.example:80'", ("http://10.0.0.1:80",)),
        (
            "listen: ':80', workers: 2, admin: '127.0.0.1:9100'",
            ("http://127.0.0.1:9100", "http://127.0.0.1:9101"),
        ),
    ],
)
def test_a_gateway_is_asked_on_its_own_machine(entry: str, urls: tuple[str, ...]) -> None:
    assert _with_gateway(entry).gateway.own_urls == urls


def test_nobody_else_is_trusted_like_that() -> None:
    trust = Trust(_with_gateway("listen: '10.0.0.1:443', tls: {cert: c, key: k}"))
    assert trust.of_own("https://10.0.0.2:443/ready") is True
    assert trust.of("https://10.0.0.1:443/ready") is True
