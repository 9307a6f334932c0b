"""What others have said, made fit for a log's line or a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str) -> str:
    """With control characters written out: neither lines nor what a terminal obeys are others' to
    say."""
    return _CONTROLS.sub(_written_out, text)


def escaped_lines(text: str) -> str:
    """The same of what has lines."""
    return "\n".join(map(escaped, text.split("\n")))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
