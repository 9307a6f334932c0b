"""Where Ray may put a deployment's processes, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.ray.placing import (
    Node,
    clusters_with_gpus,
    follows_node,
    placement,
    refuse_too_small,
    too_few,
    without_gpus,
)

FILE = """
clusters:
  - name: east
    kind: prfaas
    machines:
      - name: east-1
        agent: {{name: east-1-agent, arena: 64 MiB{agent}}}
        engines:
          - {{name: e1, role: prefill, args: [--tensor-parallel-size, "4"]}}
          - {{name: e2, role: prefill{engine}}}
      - name: elsewhere
        agent:
          name: far
          external: true
          listen: "192.0.2.9:1"
          admin: "192.0.2.9:2"
          plaintext: true
        engines: [{{name: far-e, role: prefill, url: "http://192.0.2.9:8001"}}]
  - name: west
    kind: pd
    engines: [{{name: w1, role: decode}}]
    agent: {{name: west-agent, arena: 64 MiB}}
links: [{{from: east, to: west}}]
gateways: [{{name: g1{gateway}}}, {{name: g2, near: west, listen: "0.0.0.0:8001"}}]
"""
MIB = 2.0**20


def _file(agent: str = "", engine: str = "", gateway: str = "") -> Deployment:
    text = FILE.format(agent=agent, engine=engine, gateway=gateway)
    return parse_deployment(text, source="test")


def test_a_machine_is_one_group_and_an_engine_takes_a_gpu_for_each_rank() -> None:
    found = placement(_file(), on_gpus={"east"})
    assert {g.name: g.bundles for g in found.groups} == {
        "east-1": (
            {"CPU": 0.1, "memory": 64 * MIB},
            {"CPU": 4.0, "GPU": 4.0},
            {"CPU": 1.0, "GPU": 1.0},
        ),
        "west": ({"CPU": 0.1, "memory": 64 * MIB}, {"CPU": 0.5}),
    }
    places = {p.name: (p.kind, p.cluster, p.group, p.bundle) for p in found.processes}
    assert places["e2"] == ("engine", "east", "east-1", 2)
    assert places["west-agent"] == ("agent", "west", "west", 0)
    assert places["g1"] == places["g2"] == ("gateway", "west", None, 0)


def test_a_machine_whose_agent_runs_elsewhere_is_not_placed() -> None:
    names = {p.name for p in placement(_file(), on_gpus=()).processes}
    assert names == {"east-1-agent", "e1", "e2", "west-agent", "w1", "g1", "g2"}


@pytest.mark.parametrize(
    ("agent", "engine"),
    [
        (', listen: "192.0.2.1:7400"', ""),
        (', admin: "192.0.2.1:7401"', ""),
        ("", ', url: "http://192.0.2.1:8001"'),
    ],
)
def test_an_address_of_the_file_is_that_nodes(agent: str, engine: str) -> None:
    found = placement(_file(agent, engine), on_gpus=())
    needs = {g.name: g.needs for g in found.groups}
    assert needs["east-1"]["node:192.0.2.1"] == 0.001
    assert not any(key.startswith("node:") for key in needs["west"])
    gateway = placement(_file(gateway=', listen: "192.0.2.7:80"'), on_gpus=()).processes[-2]
    assert gateway.resources["node:192.0.2.7"] == 0.001


@pytest.mark.parametrize(
    ("address", "follows"),
    [
        ("127.0.0.1:0", True),
        ("0.0.0.0:7400", True),
        ("[::]:7400", True),
        ("127.0.0.1:8000", False),
        ("192.0.2.1:7400", False),
    ],
)
def test_what_follows_the_node(address: str, follows: bool) -> None:
    assert follows_node(address) is follows


def test_gpus_are_rays_to_give() -> None:
    asked = _file(engine=', env: {CUDA_VISIBLE_DEVICES: "3"}')
    with pytest.raises(ConfigError, match="engine 'e2': env: CUDA_VISIBLE_DEVICES: Ray gives"):
        placement(asked, on_gpus={"east"})


def _node(cluster: str | None, **resources: float) -> Node:
    return Node(cluster=cluster, resources={"CPU": 8.0, "memory": 1024 * MIB, **resources})


def test_a_cluster_that_cannot_hold_a_machine_is_refused_with_what_is_lacking() -> None:
    nodes = [_node(None, GPU=8.0), _node("west"), _node("east", GPU=3.0), _node("east", GPU=3.0)]
    assert clusters_with_gpus(nodes) == {"east"}
    wanted = placement(_file(), on_gpus=clusters_with_gpus(nodes))
    with pytest.raises(ConfigError) as error:
        refuse_too_small(wanted, nodes)
    told = str(error.value)
    assert "machine 'east-1' needs a Ray node with the label prfaas.io/cluster=east" in told
    assert "GPU 5" in told
    assert "2 of 4 nodes have the label" in told
    refuse_too_small(wanted, [*nodes, _node("east", GPU=5.0)])


def _alike(machines: int, *, large: str = "2") -> Deployment:
    """A cluster whose first machine has another engine than the others."""
    found = ", ".join(
        f"{{name: w{n}, agent: {{name: a{n}, arena: 64 MiB}}, engines: [{{name: d{n}, role: decode,"
        f' args: [--tensor-parallel-size, "{large if n == 0 else 2}"]}}]}}'
        for n in range(machines)
    )
    return parse_deployment(
        f"clusters: [{{name: west, kind: pd, machines: [{found}]}}]", source="test"
    )


def test_what_lacks_for_all_machines_at_once_is_said() -> None:
    nodes = [_node("west", GPU=4.0), _node("west", GPU=3.0), _node("east", GPU=8.0)]

    def told(machines: int, large: str = "2") -> list[str]:
        wanted = placement(_alike(machines, large=large), on_gpus={"west"})
        refuse_too_small(wanted, nodes)
        return too_few(wanted, nodes)

    assert told(3) == []
    (lacks,) = told(4)
    assert "machines 'w0', 'w1', 'w2', 'w3' need each a Ray node with the label" in lacks
    assert "GPU 2; 2 of 3 nodes have the label, with room for 3 of 4" in lacks
    assert told(3, large="3") == []
    with pytest.raises(ConfigError, match="machine 'w0' needs a Ray node"):
        told(3, large="5")


def test_shares_that_fill_a_node_fit_it() -> None:
    """0.1 and 0.2 is not 0.3 to a computer."""
    assert too_few(placement(_alike(5), on_gpus=()), [_node("west", CPU=5 * 0.6)]) == []


def test_gpus_of_the_file_are_counted_and_not_named() -> None:
    asked = _file(engine=', gpus: "6,7"')
    places = {p.name: p.resources for p in placement(asked, on_gpus={"east"}).processes}
    assert places["e2"] == {"CPU": 2.0, "GPU": 2.0}
    assert {engine.gpus for engine in without_gpus(asked).engines} == {None}


def test_a_gateway_needs_a_node_of_its_cluster_too() -> None:
    wanted = placement(_file(gateway=', listen: "192.0.2.7:80"'), on_gpus=())
    nodes = [_node("east"), _node("west")]
    with pytest.raises(ConfigError, match=r"gateway 'g1' .* node:192\.0\.2\.7 0\.001"):
        refuse_too_small(wanted, nodes)
    refuse_too_small(wanted, [*nodes, _node("west", **{"node:192.0.2.7": 1.0})])


def test_every_example_can_be_placed() -> None:
    for path in sorted(Path("examples/deployments").glob("*.yaml")):
        deployment = parse_deployment(path.read_bytes(), source=str(path))
        groups = placement(deployment, on_gpus=()).groups
        assert [g.name for g in groups] == [m.name for m in deployment.machines]
