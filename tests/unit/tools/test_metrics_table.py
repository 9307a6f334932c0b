"""The page of metrics, the rules and the dashboard name what the running product exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prfaas.testing.loading import load_script
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.tls.context import client_context

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "monitoring"
TABLE = load_script(ROOT / "tools" / "metrics_table.py")
DASHBOARD = load_script(ROOT / "tools" / "grafana_dashboard.py")
PAGE = (ROOT / "docs" / "metrics.md").read_text()
promtool = shutil.which("promtool")


def documented() -> dict[str, set[str]]:
    """Metric -> labels, as the page says."""
    rows = re.findall(r"^\| `(prfaas_\w+)` \| \w+ \| (.*?) \|", PAGE, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def exported(page: str) -> Iterator[tuple[str, set[str]]]:
    """Of a page of metrics: each with the labels that its samples have."""
    for family in text_string_to_metric_families(page):
        if not family.name.endswith("_created"):
            labels = {k for s in family.samples for k in s.labels} - {"le"}
            yield family.name + ("_total" if family.type == "counter" else ""), labels


async def test_the_page_is_what_gateway_and_agent_export_over_http(tmp_path: Path) -> None:
    pages = []
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        body = {"prompt": "x" * 300, "max_tokens": 4, "stream": True}
        async with client.post("/v1/completions", json=body) as answer:
            await answer.read()
        async with client.get("/metrics") as answer:
            pages.append(await answer.text())
    async with (
        TABLE.agent_with_tls(tmp_path) as agent,
        aiohttp.ClientSession() as client,
        client.get(
            agent.admin_url + "/metrics", ssl=client_context(agent.settings.link.security)
        ) as answer,
    ):
        pages.append(await answer.text())
    found = [metric for page in pages for metric in exported(page)]
    told = documented()
    assert {name for name, _ in found} == set(told), "run tools/metrics_table.py --write"
    for name, labels in found:
        assert not labels or labels == told[name], name


async def test_the_table_is_as_the_tool_writes_it() -> None:
    assert TABLE.table(*await TABLE.every_row()) in PAGE


def test_names_say_who_knows_and_counters_end_in_total() -> None:
    for name in documented():
        assert name.split("_")[1] in {"gateway", "scheduler", "agent", "pool", "link"}, name
        assert not re.search(r"_(ms|kb|mb|percent|minutes)(_|$)", name), name


def test_rules_and_dashboard_ask_for_nothing_that_is_not_there() -> None:
    rules = (MONITORING / "rules.yml").read_text()
    board = (MONITORING / "grafana.json").read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    known = set(documented())
    for text in (rules, board):
        for name in re.findall(r"\bprfaas_(?:gateway|scheduler|agent|pool|link)_[a-z0-9_]+", text):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in known, name
        assert set(re.findall(r"prfaas:[a-z_]+:[a-z0-9]+", text)) <= recorded


def test_the_dashboard_is_as_the_tool_writes_it() -> None:
    board = json.loads((MONITORING / "grafana.json").read_text())
    assert board == DASHBOARD.dashboard()
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    corners = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}
    assert len(corners) == len(board["panels"])
    assert all(panel["targets"] for panel in panels)


@pytest.mark.skipif(promtool is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_takes_the_rules_and_they_fire_as_they_should() -> None:
    for command in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ):
        assert promtool is not None
        done = subprocess.run(
            [promtool, *command], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
