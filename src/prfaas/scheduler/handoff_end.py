"""Where a hand-off ends: at the last block's end, or exactly before the prompt's last token.

Theory of operation. Aligned, the decode engine computes the tail behind the last block's end, in a
step that the answers beside it wait for. Exact, it computes one token, and the line carries the
last block, as far as it is filled, and one more state of each recurrent layer. Where blocks are
small the tail is short: it is left to the decode engine, whose answer then has the bits of an
engine that never handed anything over. Where they are large (vLLM raises the block of a hybrid
until a recurrent state fits in) the shorter of both ways is taken.
"""

from __future__ import annotations

from math import inf

from prfaas.policies.views import Costs

SHORT_TAIL_TOKENS = 512
"""A tail so short is computed beside running answers without their notice: about as many tokens as
a decode step of a busy engine has sequences."""


def handoff_end(
    total_tokens: int,
    from_token: int,
    *,
    boundary: int,
    costs: Costs,
    decode_engine: str,
    bytes_per_s: float,
) -> int:
    """``boundary``, or ``total_tokens`` - 1.

    Args:
        from_token: the hand-off's first token.
        boundary: the last block's end before the last token, 0 where there is none.
        bytes_per_s: of the line between the engines; infinite where there is none between them.
    """
    exact = total_tokens - 1
    tail_tokens = total_tokens - boundary
    if tail_tokens <= SHORT_TAIL_TOKENS:
        return boundary
    prefill_s = costs.prefill_s(decode_engine, tail_tokens)
    more_bytes = costs.kv_bytes(from_token, exact)
    if boundary > from_token:
        more_bytes -= costs.kv_bytes(from_token, boundary)
    more_s = 0.0 if bytes_per_s == inf else max(0.0, more_bytes) / bytes_per_s
    return exact if prefill_s > more_s else boundary
