"""What the tests of this room render."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment, MachineConfig, SpillConfig, load_deployment
from prfaas.core.deployment.agents import CacheConfig
from prfaas.render import kubernetes
from prfaas.render.options import Images

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("golden")
NAMES = ("small", "fleet", "tenants", "secure")
SITES = {
    "east": ("kv.east.example.com", ("10.1.0.0/16",)),
    "west": ("kv.west.example.com", ("10.2.0.0/16", "2001:db8:2::/48")),
}
_DIGEST = "@sha256:" + "0" * 64
IMAGES = Images(
    base=f"registry.example/prfaas{_DIGEST}", engine=f"registry.example/prfaas-engine{_DIGEST}"
)


def example(name: str) -> Deployment:
    """One of examples/deployments; ``secure`` is the small one with certificates."""
    if name == "secure":
        return secured(example("small"))
    return load_deployment(ROOT / "examples" / "deployments" / f"{name}.yaml")


def spilling(name: str, path: str) -> Deployment:
    """One of them whose agents keep what is cached on disk."""

    def machine(one: MachineConfig) -> MachineConfig:
        cache = CacheConfig(spill=SpillConfig(path=path, size="1 GiB"))
        return msgspec.structs.replace(one, agent=msgspec.structs.replace(one.agent, cache=cache))

    return example(name).with_machines(machine)


def plain(deployment: Deployment) -> Deployment:
    """The same with agents that speak plaintext, as manifests have them."""

    def machine(one: MachineConfig) -> MachineConfig:
        agent = msgspec.structs.replace(one.agent, tls=None, plaintext=True)
        return msgspec.structs.replace(one, agent=agent)

    return deployment.with_machines(machine).with_gateways(
        lambda gateway: msgspec.structs.replace(gateway, agent_tls=None)
    )


def secured(deployment: Deployment) -> Deployment:
    """The same with agents that say nothing of plaintext."""

    def machine(one: MachineConfig) -> MachineConfig:
        return msgspec.structs.replace(
            one, agent=msgspec.structs.replace(one.agent, plaintext=False)
        )

    return deployment.with_machines(machine)


def rendered(name: str) -> dict[str, str]:
    """Its manifests: small on the CPU in one Kubernetes cluster, fleet with one for each site."""
    images = Images(
        base=IMAGES.base, engine=IMAGES.engine, vllm="cpu" if name in ("small", "secure") else "gpu"
    )
    sites = SITES if name == "fleet" else None
    shown = example(name) if name == "secure" else plain(example(name))
    return kubernetes.render(shown, images=images, sites=sites)
