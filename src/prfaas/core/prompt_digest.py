"""What a transfer is bound to: a digest of everything that decides what its bytes are.

Both engines compute it from their own request, so a KV cache is read only where the same tokens,
under the same salt, with the same adapter, are to be answered. A transfer's id alone opens nothing.
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from collections.abc import Sequence
from typing import Annotated

import msgspec

from prfaas.core.errors import CallerError

_BYTES = 16
PROMPT_DIGEST = re.compile(rf"^[0-9a-f]{{{2 * _BYTES}}}\Z")
PromptDigest = Annotated[str, msgspec.Meta(pattern=PROMPT_DIGEST.pattern)]


def prompt_digest(
    token_ids: Sequence[int], *, to_token: int, salt: str | None = None, adapter: str | None = None
) -> str:
    """BLAKE2b, 128 bits in hexadecimal, of the first ``to_token`` tokens.

    Args:
        salt: vLLM's ``cache_salt``.
        adapter: identifies the adapter *and* its weights; None without one.

    Raises CallerError for a prompt that has fewer tokens, or ids that are none.
    """
    if not 0 <= to_token <= len(token_ids):
        raise CallerError(f"to_token {to_token} is not within a prompt of {len(token_ids)} tokens")
    try:
        tokens = array("q", token_ids[:to_token])
    except (OverflowError, TypeError) as error:
        raise CallerError(f"token ids: {error}") from error
    if sys.byteorder == "big":
        tokens.byteswap()
    # The head says its own length and how many tokens follow: no two prompts are encoded alike.
    head = msgspec.msgpack.encode((to_token, salt, adapter))
    digest = hashlib.blake2b(len(head).to_bytes(4, "little"), digest_size=_BYTES, person=b"prfaas")
    digest.update(head)
    digest.update(tokens.tobytes())
    return digest.hexdigest()
