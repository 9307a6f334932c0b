"""The JSON Schema of the deployment file, from the types that read it.

Descriptions are the types' docstrings, so the schema documents what the code does; editors that
speak JSON Schema complete and check the file with it.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from prfaas.description.file import DescriptionFile

TITLE = "PrfaaS deployment"


def description_schema() -> dict[str, Any]:
    """The schema, complete in itself (draft 2020-12)."""
    schema = msgspec.json.schema(DescriptionFile)
    for definition in schema.get("$defs", {}).values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": TITLE, **schema}
