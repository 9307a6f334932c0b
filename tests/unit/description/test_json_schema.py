"""The JSON Schema in the documentation is that of the code, and takes the examples."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from prfaas.cli.main import main
from prfaas.description.json_schema import description_schema

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docs" / "deployment.schema.json"
SHOWN = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "src/prfaas/launch/default.yaml"]


def test_the_file_is_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == FILE.read_text(), (
        "write it anew: prfaas schema > docs/deployment.schema.json"
    )


@pytest.mark.parametrize("example", SHOWN, ids=lambda path: path.name)
def test_it_takes_the_examples(example: Path) -> None:
    schema = json.loads(FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(msgspec.yaml.decode(example.read_bytes()), schema)


def test_it_refuses_a_key_that_is_not_known_and_documents_those_that_are() -> None:
    schema = description_schema()
    with pytest.raises(jsonschema.ValidationError, match="wrkload"):
        jsonschema.validate({"clusters": [], "wrkload": {}}, schema)
    documented = [d for d in schema["$defs"].values() if d.get("description")]
    assert len(documented) == len(schema["$defs"])
