"""What an answer says about caches, taken out where that would tell one tenant of another's."""

from __future__ import annotations

import re

_DETAILS = re.compile(rb'"prompt_tokens_details"\s*:\s*\{[^{}]*\}')
"""Inside a JSON string the quote behind the name is escaped, so no text of an answer matches."""


def without_cached_tokens(content: bytes) -> bytes:
    """An answer, or whole events of one, without ``prompt_tokens_details``."""
    if b"prompt_tokens_details" not in content:
        return content
    return _DETAILS.sub(b'"prompt_tokens_details":null', content)
