"""Which policies a description is simulated under."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description, load_description
from prfaas.policies.registry import for_policy, make_policy


def load_scenario(path: Path) -> Description:
    """A description whose runs name policies that exist, with options that they have.

    Raises ConfigError naming the place and what to write.
    """
    description = load_description(path)
    check_runs(description, source=str(path))
    return description


def check_runs(description: Description, *, source: str) -> None:
    """Raises ConfigError for a policy that is unknown, or an option that it does not have."""
    for run in description.experiments.runs:
        with naming(f"{source}: run {run.name!r}"):
            make_policy(run.scheduler)


def run_for(description: Description, name: str) -> RunConfig:
    """The run of that name, or the description's own engines under the policy of that name, with
    the options it has of those under ``scheduler``. Raises ConfigError."""
    for run in description.experiments.runs:
        if run.name == name:
            return run
    scheduler = for_policy(description.scheduler, name)
    make_policy(scheduler)
    return RunConfig(name=name, scheduler=scheduler)


def with_seed(description: Description, seed: int) -> Description:
    """What is drawn is drawn from another seed. Raises ConfigError for one below 0."""
    if seed < 0:
        raise ConfigError(f"seed {seed}: write 0 or more")
    experiments = msgspec.structs.replace(description.experiments, seed=seed)
    return msgspec.structs.replace(description, experiments=experiments)
