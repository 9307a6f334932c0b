"""Request bodies: opaque JSON objects of which only what must change is changed.

A body is split into its top-level fields and each value is kept as the bytes the client sent, so
every parameter, known here or not, reaches the engine as it came. A hand-off replaces ``prompt`` by
token ids, or (chat) adds them to ``kv_transfer_params``, where vLLM takes them instead of applying
its chat template.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import Any

import msgspec

from prfaas.core.handoff import ExportParams, ImportParams, LoadParams
from prfaas.gateway import media_names
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.dialects import Endpoint, dialect_of
from prfaas.gateway.json_fields import (
    LONGEST_VALUE,
    MOST_NUMBER,
    length_of,
    number_in,
    says,
    says_true,
    top_level,
    value_of,
)

BYTES_PER_TOKEN = 4
"""Of a text, about."""
LONGEST_UNSAID = 131_072
"""Tokens of one answer, or prompt, of which nobody here knows how long it may be."""
_SEVERAL = re.compile(rb"\s*\[\s*[\"\[]")
"""How a list of texts, or of lists of token ids, begins."""
_FOR_ENGINE_ALONE = ("use_beam_search", "prompt_embeds", "suffix", "echo", "return_prompt_text")
"""Fields that ask for more than token ids carry: the engine must see the prompt as it came."""
_EMBEDDED = b'"prompt_embeds"'
"""A part of a message: vectors, for which an engine's renderer has placeholders and says nothing.
Where a client writes its letters otherwise it is planned as a text, and what is handed over for it
no engine loads."""
_KEPT_BY_ENGINE = ("previous_response_id", "conversation")
"""Of a response: what they name is kept by one engine, where it is kept at all."""
_NOT_CLIENTS = ("kv_transfer_params", "ec_transfer_params")
"""What engines' connectors are told: where to fetch, and from whom."""
_NOT_CLIENTS_EXTRAS = (*_NOT_CLIENTS, "kv_cache_report_mode")
"""By the last an engine tells all that it has cached of a prompt again, each time it looks."""
LONGEST_SESSION = 1024
"""Bytes of the name of a client's session. An engine says it with each change of its cache, of
which it remembers thousands."""
_OF_THE_ANSWER = frozenset(
    {
        "n",
        "best_of",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
    }
)
"""Fields that say how much is answered, and in which form."""
_ON_TO_PREFILL = ("model", "cache_salt", "priority", "session_id", "user")
"""Fields that decide whose KV cache the prompt's is, or in which order it is computed."""


_NULL = msgspec.Raw(b"null")


def tenant_salt(tenant: str, salt: str | None) -> str:
    """A cache salt that no other tenant's requests can have, whatever salts clients give."""
    parts = msgspec.msgpack.encode((tenant, salt))
    return hashlib.blake2b(parts, digest_size=16, person=b"prfaas tenant").hexdigest()


class RequestBody:
    """One parsed body of a request for an answer, in any of the APIs.

    ``choices`` (``n``) is how many answers are computed from each of the ``prompts``,
    ``max_tokens`` how long each may get, if that is said; ``priority`` orders it among its tenant's
    own, a lower one goes first. Raises RequestRefused (400) for what is
    not a JSON object, claims parameters the gateway sets, or counts beyond 64 bits.
    """

    def __init__(self, endpoint: Endpoint, raw: bytes) -> None:
        self.endpoint = endpoint
        self.keeps = False
        """Whether its prompt is to be cached by an agent, wherever it is computed."""
        self.hides_usage = False
        """Whether engines tell how long a stream is, and its client has not asked."""
        self.whose = ""
        """The tenant's name, where it is known."""
        self.dialect = dialect_of(endpoint)
        self.raw = raw
        self._fields = top_level(raw)
        self._check_claims()
        if endpoint == "/v1/responses" and says(self._fields.get("background")):
            message = "an answer that is made in the background can be asked for at no gateway"
            raise RequestRefused(400, f"background: {message}", param="background")
        self.stream = self._value("stream") is True
        self.choices = self._count("n") or 1
        self.prompts = self._prompts() if endpoint == "/v1/completions" else 1
        self.priority = self._priority()
        lengths = map(self._count, self.dialect.lengths)
        self.max_tokens = next((length for length in lengths if length is not None), None)

    @property
    def model(self) -> str | None:
        """The model, or LoRA adapter, that is asked for; None: the engine's only one."""
        return self._text("model")

    @property
    def is_as_long_as_it_fits(self) -> bool:
        """Whether what is left of an engine's context alone bounds its answers. Completions have a
        length where none is written."""
        written = self.endpoint != "/v1/completions" or "max_tokens" in self._fields
        return written and self.max_tokens is None

    @property
    def hides_pictures(self) -> bool:
        """Whether an engine embeds messages, pictures among them, and says nothing of how many
        tokens they have."""
        form = self._value("encoding_format")
        return "messages" in self._fields and isinstance(form, str) and form.startswith("bytes")

    @property
    def prompt_bytes(self) -> int:
        """No text in its prompt is longer, beside what a chat template adds."""
        prompt = self._fields.get("prompt") if self.endpoint == "/v1/completions" else None
        return len(self.raw if prompt is None else memoryview(prompt))

    @property
    def cache_salt(self) -> str | None:
        """Whose prefix cache may be shared: only that of equal salts."""
        return self._text("cache_salt")

    @property
    def tokens_of_text(self) -> int:
        """Of its prompts, where they are not tokenised here: as many as their text may have."""
        return max(1, len(self.raw) // BYTES_PER_TOKEN)

    def tokens_beyond_text(self, told: int) -> int:
        """How many of those that an engine says there are in its prompts, as of pictures, are more
        than `tokens_of_text`."""
        most = max(len(self.raw), LONGEST_UNSAID * self.prompts)
        return max(0, min(told, most) - self.tokens_of_text)

    def take_turns(self) -> None:
        """Have engines not put it before other tenants' for its ``priority``, which is for its
        tenant's own."""
        self._drop("priority")

    def have_tokens_told(self) -> None:
        """Have no event of a stream wait for as many tokens as its client says: by events a stream
        is counted that is left, and how fast its engine is."""
        self._drop("stream_interval")

    def have_answer_counted(self) -> None:
        """Have an engine say at the end of a stream how many tokens it has: its events are
        fewer."""
        if self.dialect.named or not says_true(self._value("stream")):
            return
        given = self._value("stream_options") or {}
        if not isinstance(given, dict) or says_true(given.get("include_usage")):
            return
        # The same with each event would take engines that count reasoning longer and longer.
        options = {**given, "include_usage": True, "continuous_usage_stats": False}
        self._fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        self.raw = msgspec.json.encode(self._fields)
        self.hides_usage = True

    def belong_to(self, tenant: str | None) -> None:
        """Have its prompt share prefix caches with this tenant's alone; None: with all that are
        nobody's in particular. At no gateway is a salt as its client has chosen it, as it could be
        one that another gateway makes for its tenants. Raises RequestRefused."""
        given, named = self._value("cache_salt"), media_names.are_in(self.raw)
        if given is not None and (not isinstance(given, str) or not given):
            raise RequestRefused(400, "cache_salt must be a text", param="cache_salt")
        if tenant is None and given is None and not named:
            return
        own = partial(tenant_salt, tenant or "")
        if named:
            self._fields = media_names.made_own(self._fields, own)
        if tenant is not None or given is not None:
            self._fields["cache_salt"] = msgspec.Raw(msgspec.json.encode(own(given)))
        # A field that the client wrote twice is in it once.
        self.raw = msgspec.json.encode(self._fields)

    def warm(self) -> None:
        """Ask for one token, and that the prompt is kept."""
        self._fields = {k: v for k, v in self._fields.items() if k not in _OF_THE_ANSWER}
        self._fields |= {"max_tokens": msgspec.Raw(b"1"), "stream": msgspec.Raw(b"false")}
        self.raw = msgspec.json.encode(self._fields)
        self.keeps, self.stream, self.choices, self.max_tokens = True, False, 1, 1

    def needs_engine_alone(self) -> str | None:
        """Why this request must reach one engine untouched; None if token ids say it all."""
        for name in _FOR_ENGINE_ALONE:
            if says(self._fields.get(name)):
                return f"{name} asks for the prompt as it came"
        if self.endpoint != "/v1/completions" and _EMBEDDED in self.raw:
            return "prompt_embeds in a message ask for the prompt as it came"
        if self.prompts > 1:  # Each would be read here, and nothing planned with it.
            return f"batch of {self.prompts} prompts"
        return self._needs_its_engine() if self.endpoint == "/v1/responses" else None

    def _needs_its_engine(self) -> str | None:
        for name in _KEPT_BY_ENGINE:
            if says(self._fields.get(name)):
                return f"{name} names what one engine keeps"
        raw = self._fields.get("tools", _NULL)
        if len(memoryview(raw)) > LONGEST_VALUE:
            return "its tools are too long to be looked at"
        tools = value_of(raw, "tools")
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict) or tool.get("type") != "function":
                return "the engine calls tools itself: its prompt grows meanwhile"
        return None

    def for_prefill(self, token_ids: msgspec.Raw, params: ExportParams) -> bytes:
        """The body that has a prefill engine compute and export this prompt's KV cache;
        ``token_ids``: see `TokenIds.json`."""
        fields: dict[str, Any] = {k: self._fields[k] for k in _ON_TO_PREFILL if k in self._fields}
        fields |= {"prompt": token_ids, "max_tokens": 1, "temperature": 0, "stream": False}
        fields["kv_transfer_params"] = params
        return msgspec.json.encode(fields)

    def for_decode(
        self, token_ids: msgspec.Raw | None, params: ImportParams | LoadParams | None
    ) -> bytes:
        """The body for the decode engine: as it came, or with token ids, or with a hand-off too."""
        if token_ids is None:
            return self.raw
        fields: dict[str, Any] = dict(self._fields)
        if self.dialect.ids == "prompt":
            fields["prompt"] = token_ids
        found = {} if params is None else msgspec.to_builtins(params)
        found["prompt_token_ids"] = token_ids if self.dialect.ids == "kv_transfer_params" else None
        found = {k: v for k, v in found.items() if v is not None}
        if found:
            fields["kv_transfer_params"] = found
        return msgspec.json.encode(fields)

    def _check_claims(self) -> None:
        """Raise RequestRefused for what is not a client's to say."""
        extra = self._value("vllm_xargs")
        extra = extra if isinstance(extra, dict) else {}
        for name in _NOT_CLIENTS:
            if bytes(self._fields.get(name, _NULL)) != b"null":
                message = f"{name} is set by the gateway, not by its clients"
                raise RequestRefused(400, message, param=name)
        for name in _NOT_CLIENTS_EXTRAS:
            if name in extra:
                # vLLM takes these for the same, whatever they are, and breaks over no object.
                message = f"{name}, also in vllm_xargs, is set by the gateway"
                raise RequestRefused(400, message, param="vllm_xargs")
        named = memoryview(self._fields.get("session_id", _NULL)), extra.get("session_id")
        if any(isinstance(n, memoryview | str) and len(n) > LONGEST_SESSION for n in named):
            message = f"session_id has more than {LONGEST_SESSION} bytes"
            raise RequestRefused(400, message, param="session_id")

    def _drop(self, name: str) -> None:
        if self._fields.pop(name, None) is not None:
            self.raw = msgspec.json.encode(self._fields)

    def _prompts(self) -> int:
        """How many there are, embedded ones as well; a list of token ids is one."""
        return max(1, sum(map(self._prompts_in, ("prompt", "prompt_embeds"))))

    def _prompts_in(self, name: str) -> int:
        raw = self._fields.get(name)
        if raw is None or bytes(memoryview(raw)[:4]) == b"null":
            return 0
        return length_of(raw, name) if _SEVERAL.match(memoryview(raw)) else 1

    def _priority(self) -> int:
        value = self._number("priority") or 0
        if abs(value) > MOST_NUMBER:
            raise RequestRefused(400, f"priority must be within +-{MOST_NUMBER}", param="priority")
        return value

    def _count(self, name: str) -> int | None:
        """A positive number; None for whatever else there is: the engine knows what to say."""
        value = self._number(name)
        if value is None or value < 1:
            return None
        if value > MOST_NUMBER:
            raise RequestRefused(400, f"{name} must be at most {MOST_NUMBER}", param=name)
        return value

    def _number(self, name: str) -> int | None:
        raw = self._fields.get(name)
        return None if raw is None else number_in(raw, name)

    def _text(self, name: str) -> str | None:
        value = self._value(name)
        return value if isinstance(value, str) else None

    def _value(self, name: str) -> Any:
        raw = self._fields.get(name)
        return None if raw is None else value_of(raw, name)
