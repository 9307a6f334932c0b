"""The deployment files in the documentation are valid."""

import re
import textwrap
from pathlib import Path

import pytest

from prfaas.core.deployment import parse_deployment

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("page", ["README.md", "docs/deployment.md"])
def test_the_example_is_valid(page: str) -> None:
    example = re.search(
        r"^ *```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert example is not None
    parse_deployment(textwrap.dedent(example[1]), source=page)
