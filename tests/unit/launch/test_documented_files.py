"""The files in examples/ and every YAML block of the documentation are valid."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import TlsConfig, parse_deployment
from prfaas.models.profiles import parse_profile
from prfaas.planner.scenario import scenario_of
from prfaas.sim.build import build_workload, build_world
from prfaas.sim.runs import load_scenario

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
REST_OF_A_DEPLOYMENT = """
clusters: [{name: west, kind: pd, engines: [{name: d, role: decode}], agent: {name: a}}]
"""


def blocks(page: Path) -> list[str]:
    found = re.findall(r"^( *)```yaml\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


SHOWN = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page))
]


def check(text: str, folder: Path) -> str:
    """Read a file as what it is; returns what that is."""
    file = msgspec.yaml.decode(text)
    if "apiVersion" in file:  # Of other projects, of which there are no schemas here.
        assert {"apiVersion", "kind"} <= file.keys()
        return "manifest"
    if "hardware" in file:
        parse_profile(text, source="profile")
        return "profile"
    if "clusters" not in file:
        parse_deployment(text + REST_OF_A_DEPLOYMENT, source="part of a deployment")
        return "deployment"
    if {"engines", "machines"} & file["clusters"][0].keys():
        parse_deployment(text, source="deployment")
        return "deployment"
    path = folder / "described.yaml"
    path.write_text(text)
    described = load_scenario(path)
    if described.workload is None:  # It comes with --trace or --workload.
        return "plan"
    scenario_of(described, source="plan", beside=folder)
    if described.asked.arrivals is None:
        return "plan"
    workload = build_workload(described, beside=folder).first(100)
    for run in described.experiments.runs:
        build_world(described, run, workload, beside=folder)
    return "simulation"


@pytest.mark.parametrize("text", SHOWN)
def test_what_the_documentation_shows(text: str, tmp_path: Path) -> None:
    [profile] = [text for text in blocks(ROOT / "docs/planner.md") if "hardware:" in text]
    (tmp_path / "my-h20.yaml").write_text(profile)  # The planner's page names it in its scenario.
    check(text, tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples(example: Path, tmp_path: Path) -> None:
    without_a_workload = "workload:" not in example.read_text()
    what = "plan" if without_a_workload else "simulation"
    assert check(example.read_text(), tmp_path) == what


def test_blocks_and_examples_were_found() -> None:
    assert len(SHOWN) >= 5
    assert len(EXAMPLES) >= 4


def test_the_readme_names_a_model_and_the_files_that_prfaas_certs_writes() -> None:
    [text] = blocks(ROOT / "README.md")
    shown = parse_deployment(text, source="README.md")
    assert shown.model.path is not None
    for agent in shown.agents:
        own = f"/etc/prfaas/{agent.name}"
        assert agent.tls == TlsConfig(
            ca="/etc/prfaas/ca.pem", cert=f"{own}.pem", key=f"{own}-key.pem"
        )
