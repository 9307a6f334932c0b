"""``prfaas profile`` writes files that planner and simulator read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.cli.main import main
from prfaas.core.deployment import parse_deployment
from prfaas.models.profiles import load_profile
from prfaas.testing.profiled_engine import ProfiledEngine, scaled_layout

PROFILE = load_profile("paper-1t-h20-fit")
DEPLOYMENT = """
clusters:
  - name: w
    kind: pd
    agent: {{name: a, arena: 64 MiB, slot: 256 KiB, plaintext: true, admin: "{admin}"}}
    engines:
      - {{name: p, role: prefill, url: "{p}", kv_events: "tcp://h:1"}}
      - {{name: d, role: decode, url: "{d}", kv_events: "tcp://h:1", max_num_seqs: 2}}
"""


async def test_a_deployment_is_profiled_cluster_by_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = DEPLOYMENT.format(admin="127.0.0.1:0", p="http://h:1", d="http://h:2")
    settings = settings_for(parse_deployment(empty, source="t"), "a", socket=tmp_path / "a.sock")
    agent = Agent(settings)
    kv = PROFILE.kv_size()
    assert kv is not None
    layout = scaled_layout(kv, byte_scale=64, block_tokens=64)
    await agent.start()
    engines = [
        ProfiledEngine(name, str(tmp_path / "a.sock"), PROFILE, layout, max_batch=20, slow=0.003)
        for name in ("p", "d")
    ]
    try:
        for engine in engines:
            await asyncio.to_thread(engine.client.wait_connected, 30.0)
            await engine.start()
        p, d = (engine.url for engine in engines)
        file = tmp_path / "deployment.yaml"
        admin = agent.admin_url.removeprefix("http://")
        file.write_text(DEPLOYMENT.format(admin=admin, p=p, d=d))
        out, plot = tmp_path / "profiles", tmp_path / "p.svg"
        options = ["--longest", "512", "--time", "2 s", "--gpus", "8"]
        arguments = ["profile", str(file), "-o", str(out), "--plot", str(plot), *options]
        assert await asyncio.to_thread(main, arguments) == 0
        alone = tmp_path / "alone.yaml"
        assert await asyncio.to_thread(main, ["profile", d, "-o", str(alone), *options]) == 0
    finally:
        for engine in engines:
            await engine.stop()
        await agent.close()
    shown = capsys.readouterr()
    assert "w.yaml" in shown.out
    assert "decode step of 1" in shown.err
    profile = load_profile(str(out / "w.yaml"))
    assert profile.prefill is not None
    assert profile.decode is not None
    assert profile.load is not None
    assert profile.kv is not None
    assert (profile.gpus, profile.basis) == (8, "measured")
    assert plot.read_bytes().startswith(b"<?xml")
    assert load_profile(str(alone)).kv is None


def test_engines_without_addresses_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "clusters: [{name: w, kind: pd, agent: {name: a}, engines: [{name: d, role: decode}]}]"
    )
    assert main(["profile", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "has no url: pass the file with addresses" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-batch", "--gpus"])
def test_numbers_that_mean_nothing_are_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "http://127.0.0.1:9", "-o", str(tmp_path / "p"), option, "0"]) == 2
    assert f"{option} 0: write 1 or more" in capsys.readouterr().err
