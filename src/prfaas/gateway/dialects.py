"""The APIs that engines speak, as far as the gateway must tell them apart.

A completion ends with ``[DONE]``; the Responses API and Anthropic's Messages name each event.
Marks are looked for in bytes: a line's end never stands inside JSON, nor does an unescaped quote
inside one of its texts, so no answer's text can look like one that has either.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from prfaas.core.errors import UNREADABLE

Endpoint = Literal["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"]

_DATA = b"data: "
_NEXT = b"\n" + _DATA
_LONGEST_REFUSAL = 1024 * 1024
"""Bytes of one that is put into another form."""
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One API. ``renders_list``: rendering answers with a list of prompts. ``ids``: where the
    decode engine takes token ids instead of what they were made from; None: it renders the body
    again, which gives the same. ``done``, ``error``, ``token``: marks of the event that ends a
    complete answer, of one that says an error, of one with a token. ``opening``: of events that
    come before anything is computed. ``named``: errors are events with a name. ``lengths``: fields
    that say how long an answer may be; the first that is there does."""

    lengths: tuple[str, ...]
    renders_list: bool = False
    ids: Literal["prompt", "kv_transfer_params"] | None = None
    done: tuple[bytes, ...]
    error: tuple[bytes, ...]
    token: bytes
    opening: tuple[bytes, ...] = ()
    named: bool = False
    anthropic: bool = False

    def is_done(self, events: bytes) -> bool:
        """Whether the end of a complete answer is among these events: a text may have its words,
        but no line of its own."""
        return any(events.startswith(mark) or b"\n" + mark in events for mark in self.done)

    def error_in(self, events: bytes) -> bytes | None:
        """The JSON of the first error event; None where there is none."""
        for mark in self.error:
            at = events.find(mark)
            if at >= 0:
                start = events.find(_DATA, at) + len(_DATA)
                return events[start:].partition(b"\n")[0]
        return None

    def begins_with_error(self, events: bytes) -> bool:
        """Whether the first event is an error."""
        return events.startswith(self.error)

    def only_opens(self, events: bytes) -> bool:
        """Whether nothing of an answer is among these events yet."""
        if not self.opening:
            return False
        names = events.count(b"\nevent: ") + events.startswith(b"event: ")
        return names == sum(events.count(mark) for mark in self.opening)

    def tokens_in(self, events: bytes) -> int:
        """How many tokens these events have, as near as their number says. One that has but the
        usage (``stream_options``) has none."""
        found = events.count(self.token) - events.count(b'"choices":[]')
        # A mark that begins where the last event ends: no text of an answer has that in it.
        return found + (self.token == _NEXT and events.startswith(_DATA))

    def error_body(self, status: int, kind: str, message: str, param: str | None) -> bytes:
        """An error as this API's clients expect it."""
        if self.anthropic:
            kind = _ANTHROPIC_TYPES.get(
                status, "api_error" if status >= 500 else "invalid_request_error"
            )
            return msgspec.json.encode(
                {"type": "error", "error": {"type": kind, "message": message}}
            )
        error = {"message": message, "type": kind, "param": param, "code": status}
        return msgspec.json.encode({"error": error})

    def error_event(self, status: int, kind: str, message: str, param: str | None) -> bytes:
        """The same as the last event of a stream."""
        body = self.error_body(status, kind, message, param)
        if not self.named:
            return _DATA + body + b"\n\n"
        if not self.anthropic:
            # OpenAI's clients look for `error`, whoever reads the specification for the rest.
            event = {"type": "error", "code": kind, "message": message, "param": param}
            body = msgspec.json.encode({**event, **msgspec.json.decode(body)})
        return b"event: error\n" + _DATA + body + b"\n\n"

    def refusal(self, status: int, body: bytes) -> bytes:
        """An engine's refusal in this API's form: renderers know but OpenAI's."""
        if not self.anthropic or len(body) > _LONGEST_REFUSAL:
            return body
        try:
            found: Any = msgspec.json.decode(body)
            message = found["error"]["message"]
        except (KeyError, TypeError, *UNREADABLE):
            return body
        if found.get("type") == "error":
            return body
        return self.error_body(status, "", str(message), None)


_OPENAI = Dialect(
    lengths=("max_tokens",),
    renders_list=True,
    ids="prompt",
    done=(b"data: [DONE]",),
    error=(b'data: {"error"',),
    token=_NEXT,
)
_DIALECTS: dict[str, Dialect] = {
    "/v1/completions": _OPENAI,
    "/v1/chat/completions": msgspec.structs.replace(
        _OPENAI,
        lengths=("max_completion_tokens", "max_tokens"),
        renders_list=False,
        ids="kv_transfer_params",
    ),
    "/v1/responses": Dialect(
        lengths=("max_output_tokens",),
        done=(b"event: response.completed\n", b"event: response.incomplete\n"),
        error=(b"event: error\n", b"event: response.failed\n", b'data: {"error"'),
        token=b".delta\ndata: ",
        opening=(b"event: response.created\n", b"event: response.in_progress\n"),
        named=True,
    ),
    "/v1/messages": Dialect(
        lengths=("max_tokens",),
        ids="kv_transfer_params",
        done=(b"event: message_stop\n",),
        error=(b"event: error\n", b'data: {"error"'),
        token=b"event: content_block_delta\n",
        opening=(b"event: ping\n",),
        named=True,
        anthropic=True,
    ),
}


def dialect_of(path: str) -> Dialect:
    """The API that is spoken at a path; OpenAI's where it is no other."""
    if path.startswith("/v1/messages"):
        return _DIALECTS["/v1/messages"]
    return _DIALECTS.get(path, _OPENAI)
