"""The reference pages say what the code does: routes, records, messages, constants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from prfaas.agent import admin, peers
from prfaas.agent.no_link import NoLink
from prfaas.core import cache_copies, gateway_sessions, prefixes, versions
from prfaas.core.deployment import AgentConfig, GatewayConfig
from prfaas.core.strict import Strict
from prfaas.engine_socket import messages
from prfaas.gateway.http import make_admin_app, make_app
from prfaas.kv_events import wire
from prfaas.link.protocol import frames, line_share
from prfaas.link.tcp.config import LEAST_CHUNK_BYTES, Plaintext, TcpLinkConfig
from prfaas.testing.loading import load_script
from prfaas.testing.mock_deployment import MockDeployment

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
TABLES = load_script(ROOT / "tools" / "type_tables.py")
LINK = TcpLinkConfig(name="a", security=Plaintext())
CONSTANTS = {
    "link.version": frames.VERSION,
    "link.header_bytes": frames.HEADER_BYTES,
    "link.max_body_bytes": frames.MAX_BODY_BYTES,
    "link.least_chunk_bytes": LEAST_CHUNK_BYTES,
    "link.max_chunk_bytes": LINK.max_chunk_bytes,
    "link.handshake_s": LINK.handshake_timeout_s,
    "link.keepalive_s": LINK.keepalive_s,
    "link.peer_grace_s": LINK.peer_grace_s,
    "link.max_transfers": LINK.max_incoming_transfers,
    "link.grant_s": line_share.GRANT_S,
    "link.pledge_s": line_share.PLEDGE_S,
    "link.demand_every_s": line_share.DEMAND_EVERY_S,
    "agent.api": versions.AGENT_API,
    "agent.max_body_bytes": admin.MAX_BODY_BYTES,
    "agent.max_copy_bytes": cache_copies.MOST_COPY_BYTES,
    "agent.longest_wait_s": admin.LONGEST_WAIT_S,
    "session.lapses_after_s": gateway_sessions.LAPSES_AFTER_S,
    "kv_events.max_frame_bytes": wire.MOST_FRAME_BYTES,
    "kv_events.alive_s": wire.ALIVE_S,
    "engine.version": messages.PROTOCOL_VERSION,
    "engine.max_frame_bytes": messages.MAX_FRAME_BYTES,
    "cache.digest_bytes": prefixes.DIGEST_BYTES,
    "cache.key_bytes": prefixes.KEY_BYTES,
    "cache.max_tokens": prefixes.MOST_TOKENS,
    "cache.max_blocks": prefixes.MOST_BLOCKS,
}


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of all tables below a heading, up to the next of its kind."""
    level = heading.partition(" ")[0]
    text = (DOCS / page).read_text().split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]
    found = re.findall(r"^\| (.*) \|$", text.replace("| |", "|  |"), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r" \| ?", row)] for row in found]


@pytest.mark.parametrize("page", TABLES.PAGES)
def test_tables_of_types_are_those_of_the_code(page: str) -> None:
    text = (DOCS / page).read_text()
    assert text == TABLES.filled(text), "run tools/type_tables.py --write"
    marks = set(re.findall(r"<!-- types: ([\w-]+) -->", text))
    assert marks - {"shared"} <= set(TABLES.SECTIONS)


def test_every_table_of_types_is_on_a_page() -> None:
    told = "".join((DOCS / page).read_text() for page in TABLES.PAGES)
    assert [name for name in TABLES.SECTIONS if f"<!-- types: {name} -->" not in told] == []


def test_constants_are_those_of_the_code() -> None:
    table = rows("wire-protocols.md", "## Constants")
    told = {row[0].strip("`"): float(row[1]) for row in table if row[0].startswith("`")}
    assert told == CONSTANTS


def test_frames_of_the_link_are_those_of_the_code() -> None:
    link = rows("wire-protocols.md", "## The KV link")
    kinds = {row[1]: int(row[0]) for row in link if re.fullmatch("[A-Z]+", row[1])}
    assert kinds == {kind.name: kind.value for kind in frames.Kind}
    with_body = {row[1] for row in link if row[1] in kinds and row[3].startswith("[")}
    assert with_body == {kind.name for kind in frames._WITH_BODY}
    fields = [row for row in link if row[0].isdigit() and row[1].isdigit()]
    sizes = [int(size) for _, size, *_ in fields]
    assert [int(at) for at, *_ in fields] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert sum(sizes) == frames.HEADER_BYTES
    packed = frames.pack(frames.Kind.ACK, connection=1, length=2, handle=3, offset=4, digest=5)
    named = {row[2].strip("`"): (int(row[0]), int(row[1])) for row in fields}
    read = {n: int.from_bytes(packed[at : at + size], "little") for n, (at, size) in named.items()}
    told = {"connection": 1, "length": 2, "handle": 3, "offset": 4, "digest": 5}
    assert {name: read[name] for name in told} == told
    assert (read["kind"], read["version"]) == (frames.Kind.ACK, frames.VERSION)


def routes(app: web.Application) -> Iterator[str]:
    """As the tables write them."""
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource is not None else {}
        path = info.get("path") or info["formatter"]
        if route.method != "HEAD":
            yield f"{route.method} {path}"


async def test_routes_of_a_gateway_are_those_that_it_serves() -> None:
    mock = MockDeployment()
    async with mock.running():
        served = set(routes(make_app(mock.gateway)))
        admins = set(routes(make_admin_app(mock.gateway)))
    table = rows("http.md", "## The gateway")
    told = {row[0].strip("`"): row[1] for row in table if row[0].startswith("`") and "/" in row[0]}
    assert set(told) == served
    assert {route for route, who in told.items() if "admin" in who} | {"GET /health"} == admins


class _Driver:
    """Enough of one for routes."""

    def carry_out(self, *_: object) -> None:
        pass


def test_routes_of_an_agent_are_those_that_it_serves() -> None:
    unused = cast("Any", None)
    made = admin.Admin("a", cast("Any", _Driver()), unused, NoLink(), unused, unused)
    served = made.application()
    table = [row for row in rows("http.md", "## The agent") if row[0].startswith("`")]
    told = {row[0].strip("`") for row in table}
    assert told - {"CONNECT HOST:PORT"} == set(routes(served))
    everybodys = {row[0].strip("`") for row in table if row[1] == "all"}
    assert everybodys == {f"GET {path}" for path in peers._OPEN}


@pytest.mark.parametrize("room", ["agent", "pool"])
def test_every_file_of_an_agent_is_in_a_table(room: str) -> None:
    named = {
        file.rpartition("/")[2]
        for row in rows("agent.md", "## Inside")
        for file in re.findall(r"`([a-z_/]+\.py)`", row[0])
    }
    files = {path.name for path in (ROOT / "src" / "prfaas" / room).glob("[a-z]*.py")}
    assert files <= named


@pytest.mark.parametrize(
    ("page", "heading", "kind"),
    [
        ("agent.md", "## Settings (under `agent:` of a cluster)", AgentConfig),
        ("gateway.md", "## Settings", GatewayConfig),
    ],
)
def test_settings_are_those_of_the_deployment_file(
    page: str, heading: str, kind: type[Strict]
) -> None:
    keys = [row[0] for row in rows(page, heading) if row[0].startswith("`")]
    told = {name for cell in keys for name in re.findall(r"`(\w+)", cell)}
    assert told == set(kind.__struct_fields__)
