"""Agents that all run here get certificates of their own for the run; others keep what they say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import AgentConfig, Deployment, MachineConfig, load_deployment
from prfaas.launch.certificates import secured
from prfaas.launch.start import embedded_default
from prfaas.tls.files import files_in
from prfaas.tls.unlisted import lists_lacking


def a_deployment(**of_the_first_agent: object) -> Deployment:
    deployment = load_deployment(embedded_default())
    first = deployment.machines[0]

    def changed(machine: MachineConfig) -> MachineConfig:
        if machine != first:
            return machine
        agent = msgspec.structs.replace(first.agent, **of_the_first_agent)
        return msgspec.structs.replace(first, agent=agent)

    return deployment.with_machines(changed)


def agents(deployment: Deployment) -> list[AgentConfig]:
    return list(deployment.agents)


def test_every_agent_gets_a_certificate_of_one_authority(tmp_path: Path) -> None:
    made = agents(secured(a_deployment(), tmp_path))
    assert all(agent.tls is not None for agent in made)
    assert len({agent.tls.ca for agent in made if agent.tls is not None}) == 1
    for agent in made:
        assert agent.tls is not None
        assert Path(agent.tls.cert).name == f"{agent.name}.pem"
        assert lists_lacking(files_in(agent.tls)) is None
        assert Path(agent.tls.key).stat().st_mode & 0o077 == 0


def test_who_speaks_plaintext_is_left_alone(tmp_path: Path) -> None:
    first, second = agents(secured(a_deployment(plaintext=True), tmp_path))
    assert first.tls is None
    assert second.tls is not None


def test_an_agent_elsewhere_could_not_have_our_authority(tmp_path: Path) -> None:
    deployment = a_deployment(external=True)
    assert secured(deployment, tmp_path) is deployment
    assert not list(tmp_path.iterdir())
