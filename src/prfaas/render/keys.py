"""Keys in files and variables, as Secrets that pods mount: what each is called there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prfaas.core.errors import ConfigError
from prfaas.render.objects import Object

KEYS = "/etc/prfaas/keys"
"""Where they lie in a pod, a directory for each Secret."""
OPERATOR_KEY = {"name": "operator-key", "key": "key"}
"""Where everything that speaks for an operator finds what it shows."""
_NAME = re.compile(r"(?!\.\.?\Z|\.\.)[-._a-zA-Z0-9]{1,253}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,252}\Z")


def key_name(path: str) -> str:
    """What a Secret calls a file: its last part. Raises ConfigError where that cannot be."""
    name = path.rpartition("/")[2]
    if not _NAME.match(name):
        raise ConfigError(
            f"{path}: a Secret calls a file of keys by the last part of its path, of letters, "
            "digits, '-', '_' and '.'; rename it"
        )
    return name


def check_apart(secret: str, files: Iterable[str | None], variables: Iterable[str | None]) -> None:
    """Raise ConfigError where a Secret would hold two of them under one name: it has room for one
    of them."""
    found: dict[str, str] = {}
    named = [(key_name(path), path) for path in files if path is not None]
    for variable in variables:
        if variable is not None:
            if not _VARIABLE.match(variable):
                raise ConfigError(f"{variable!r} is no name of an environment variable")
            named.append((variable, f"${variable}"))
    for name, source in named:
        other = found.setdefault(name, source)
        if other != source:
            raise ConfigError(
                f"{other} and {source} would both be {name!r} of the Secret {secret}; give one of "
                "them another name"
            )


def key_volume(name: str, secret: str | None = None) -> Object:
    """A Secret as a volume that a pod's group alone may read."""
    return {"name": name, "secret": {"secretName": secret or name, "defaultMode": 0o440}}
