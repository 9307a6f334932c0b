"""A mistake in a file is named with its place, and with what to write there."""

import pytest

from prfaas.core.deployment.file import DeploymentFile
from prfaas.core.errors import ConfigError
from prfaas.core.strict import parse_yaml

EAST = "clusters: [{name: east, kind: %s, engines: [], agent: {name: a}}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clustres: []", "unknown key 'clustres' at $; did you mean 'clusters'?"),
        (EAST % "pdd", "'pdd' at $.clusters[0].kind; write one of prfaas, pd"),
        (
            EAST % "pd" + "links: [{from: east, to: west, rate: 200}]",
            "a number alone at $.links[0].rate; write its unit, or quote it if it is a name",
        ),
        ("clusters: {", "not valid YAML"),
        ("clusters: 2026-13-45", "not valid YAML: month must be in 1..12"),
        ("links: []", "'clusters' is missing at $"),
        ("", "file.yaml: the file is empty"),
        ("hello", "a text at $; write keys with values"),
        ("clusters: 3", "a whole number at $.clusters; write a list"),
        (EAST % "pd" + "links: {a: 1}", "keys with values at $.links; write a list"),
        (EAST % "pd" + "gateway: {listen: 8000}", 'at $.gateway.listen; write "HOST:PORT"'),
        (
            EAST % "pd" + "gateway: {max_inflight_requests: many}",
            "a text at $.gateway.max_inflight_requests; write a whole number",
        ),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text, DeploymentFile, source="file.yaml")
    assert str(raised.value).startswith("file.yaml: ")
    assert said in str(raised.value)


def test_bad_yaml_is_told_in_one_line_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(b"a: [\n", dict, source="x.yaml")
    told = str(caught.value)
    assert told.startswith("x.yaml: not valid YAML: while parsing a flow node;")
    assert told.endswith(", at line 2, column 1")
    assert "\n" not in told
