"""A deployment: clusters of machines, their agents and engines, the lines between them, gateways.

One YAML file describes it (`file`); `prfaas up` starts what has no ``url``, every process reads its
part. After loading there is one form only: clusters have machines, a machine has an agent and
engines.
"""

from prfaas.core.deployment.agents import AgentConfig, SpillConfig, TlsConfig
from prfaas.core.deployment.borders import check_borders, is_carried
from prfaas.core.deployment.clusters import ClusterConfig, ClusterKind, LanConfig, MachineConfig
from prfaas.core.deployment.engines import EngineConfig, EngineRole, ProcessName
from prfaas.core.deployment.file import load_deployment, parse_deployment
from prfaas.core.deployment.gateways import MOST_OUTPUT_S, FrontTlsConfig, GatewayConfig
from prfaas.core.deployment.lines import AgentPair, Line, lines_of, way_in_words
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.model import Deployment, ModelConfig
from prfaas.core.deployment.scheduling import SchedulerConfig
from prfaas.core.deployment.tenants import TenantConfig
from prfaas.core.deployment.validity import RESERVED_NAMES, check_workers

__all__ = [
    "MOST_OUTPUT_S",
    "RESERVED_NAMES",
    "AgentConfig",
    "AgentPair",
    "ClusterConfig",
    "ClusterKind",
    "Deployment",
    "EngineConfig",
    "EngineRole",
    "FrontTlsConfig",
    "GatewayConfig",
    "LanConfig",
    "Line",
    "LinkConfig",
    "MachineConfig",
    "ModelConfig",
    "ProcessName",
    "SchedulerConfig",
    "SpillConfig",
    "TenantConfig",
    "TlsConfig",
    "check_borders",
    "check_workers",
    "is_carried",
    "lines_of",
    "load_deployment",
    "parse_deployment",
    "way_in_words",
]
