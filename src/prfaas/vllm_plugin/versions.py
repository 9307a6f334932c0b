"""Which vLLM the connector was tried with. Others are used all the same, with a warning."""

from __future__ import annotations

import re

WITH_ENGINES = "0.32"
"""The minor version that engines ran with: unit tests cannot tell whether answers are right."""
TRIED = (WITH_ENGINES, "0.33")
"""Minor versions. What was tried of each: docs/connector.md."""


def version_warning(version: str) -> str | None:
    """What to tell the operator of this version of vLLM; None if it was tried."""
    found = re.match(r"v?(\d+\.\d+)(?!\d)", version)
    if found is not None and found[1] in TRIED:
        return None
    return (
        f"vLLM {version} was not tried with prfaas (tried: {', '.join(TRIED)}). It may not start, "
        "if vLLM has renamed what the connector reads; compare a few answers with an engine "
        "without the connector before relying on it"
    )
