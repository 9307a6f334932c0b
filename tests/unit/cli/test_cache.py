"""``prfaas cache`` against a gateway over mock engines and agents."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.cli.cache import Shown, _agent_line, ask
from prfaas.cli.main import build_parser
from prfaas.cli.prompt_files import beginning
from prfaas.core.errors import ConfigError
from prfaas.testing.mock_deployment import BLOCK_TOKENS, MockDeployment, until

PROMPT = "a system prompt that is certainly longer than the threshold of forty tokens"
BOUNDARY = (len(PROMPT) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


class Site(MockDeployment):
    url: str
    home: Path

    async def cache(self, *words: str) -> tuple[int, str]:
        """On the loop in which the gateway runs."""
        out = io.StringIO()
        args = build_parser("cache").parse_args(["cache", *words, "--gateway", self.url])
        with redirect_stdout(out):
            return await ask(args), out.getvalue()

    def file(self, *prompts: Any) -> str:
        path = self.home / "prompts.jsonl"
        path.write_text("\n".join(map(json.dumps, prompts)))
        return str(path)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    mock = Site()
    async with mock.running() as client:
        await mock.ready()
        mock.url, mock.home = str(client._base_url), tmp_path
        (tmp_path / "fleet.yaml").write_text(mock.deployment_text())
        yield mock


async def test_a_prompt_is_warmed_pinned_asked_for_and_unpinned(site: Site) -> None:
    file, fleet = site.file(PROMPT), str(site.home / "fleet.yaml")
    status, said = await site.cache("pin", file, fleet)
    assert status == 1
    assert "no agent has this prompt cached" in said
    status, said = await site.cache("warm", file, fleet, "--json")
    (told,) = json.loads(said)
    assert (status, told["error"], told["report"]["prompt_tokens"]) == (0, None, len(PROMPT))
    assert told["report"]["engine"] in ("d1", "d2")
    site.agents["west-agent"].caches("x", list(PROMPT.encode()), BOUNDARY)
    await until(lambda: bool(site.gateway.pools.entries()["west-agent"]))
    status, said = await site.cache("query", file, fleet)
    assert (status, f"at agents: west-agent {BOUNDARY}" in said) == (0, True), said
    for action, pinned in (("pin", ["x"]), ("unpin", [])):
        status, said = await site.cache(action, file, fleet)
        assert (status, f"{action}ned {BOUNDARY} at west-agent" in said) == (0, True), said
        assert site.agents["west-agent"].pinned == pinned
    status, said = await site.cache("warm", file, fleet, "--pin")
    assert (status, site.agents["west-agent"].pinned) == (0, ["x"]), said
    status, said = await site.cache("show", fleet)
    assert (status, "west-agent: 1 part of transfers" in said) == (0, True), said


def test_a_disk_is_shown_where_there_is_one() -> None:
    sizes = msgspec.convert(
        {"size_bytes": 2 << 20, "used_bytes": 1 << 20, "disk": {"size_bytes": 0, "used_bytes": 0}},
        Shown.Sizes,
    )
    assert "disk" not in _agent_line("a", 1, sizes)
    sizes = msgspec.structs.replace(sizes, disk={"size_bytes": 8 << 30, "used_bytes": 3 << 30})
    assert _agent_line("a", 1, sizes).endswith("; on disk 3.0 GiB of 8.0 GiB")


async def test_a_pin_that_no_agent_takes_is_an_error(site: Site) -> None:
    agent = site.agents["west-agent"]
    agent.caches("x", list(PROMPT.encode()), BOUNDARY)
    agent.takes_pins = False
    await until(lambda: bool(site.gateway.pools.entries()["west-agent"]))
    status, said = await site.cache("pin", site.file(PROMPT), str(site.home / "fleet.yaml"))
    assert (status, "no more may be pinned" in said) == (1, True), said


async def test_what_is_no_prompt_is_said_before_anything_is_asked(site: Site) -> None:
    fleet = str(site.home / "fleet.yaml")
    for content, why in (
        ("", "0 prompts; 1 to 1000"),
        ('{"prompt": 1}\nnot JSON', "line 2: not JSON"),
        ("[1, 2]", "prompt 1 is no request"),
        ('{"model": "m"}', "prompt 1 is no request"),
    ):
        (site.home / "wrong").write_text(content)
        with pytest.raises(ConfigError, match=why):
            await site.cache("warm", str(site.home / "wrong"), fleet)
    status, said = await site.cache("warm", site.file({"prompt": ["a", "b"]}), fleet)
    assert (status, "one prompt at a time" in said) == (1, True), said


@pytest.mark.parametrize(
    ("request_", "begins"),
    [
        ({"prompt": "Once upon\na time"}, "Once upon a time"),
        ({"prompt": "x" * 500}, "x" * 60 + "..."),
        ({"prompt": [1, 2]}, '{"prompt":[1,2]}'),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "Be brief."),
        ({"messages": [1]}, '{"messages":[1]}'),
        ({"messages": []}, '{"messages":[]}'),
    ],
)
def test_a_prompt_is_named_by_how_its_text_begins(request_: dict[str, Any], begins: str) -> None:
    assert beginning(msgspec.json.encode(request_)) == begins
