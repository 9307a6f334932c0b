"""What an answer says about caches, taken out where that would tell one tenant of another's."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from prfaas.core.errors import UNREADABLE

_PLAIN = rb"[^{}]{0,4096}"
_OBJECT = rb"\s*:\s*(\{" + _PLAIN + rb"(?:\{" + _PLAIN + rb"\}" + _PLAIN + rb"){0,16}\})"
"""With others in it, as that of images' tokens. What is longer is no usage, and would take long."""
_DETAILS = re.compile(rb'"prompt_tokens_details"' + _OBJECT)
"""Inside a JSON string the quote behind the name is escaped, so no text of an answer matches."""
_INPUT_DETAILS = re.compile(rb'"input_tokens_details"' + _OBJECT)
_NO_DETAILS = b'"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0}'
"""Clients of the Responses API take the field for granted."""
_USAGE = re.compile(rb'"usage"' + _OBJECT)
_CACHE_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens")


def without_cached_tokens(content: bytes) -> bytes:
    """An answer, or whole events of one, that counts a prompt as if nothing of it was cached."""
    if b"prompt_tokens_details" in content:
        content = _DETAILS.sub(b'"prompt_tokens_details":null', content)
    if b"input_tokens_details" in content:
        content = _INPUT_DETAILS.sub(_NO_DETAILS, content)
    if b"_input_tokens" in content:
        content = _USAGE.sub(_all_as_input, content)
    return content


def _all_as_input(found: re.Match[bytes]) -> bytes:
    """Of a message's usage, in which ``input_tokens`` are those that were not cached."""
    try:
        usage = msgspec.json.decode(found[1], type=dict[str, Any])
        if "input_tokens" not in usage:
            return found[0]  # It is no message's, which the text of an answer only looks like.
        cached = sum(usage.pop(name, None) or 0 for name in _CACHE_COUNTS)
        usage["input_tokens"] += cached
    except (KeyError, TypeError, *UNREADABLE):
        return b'"usage":{"input_tokens":0,"output_tokens":0}'
    return b'"usage":' + msgspec.json.encode(usage)
