"""At which endpoints an engine can be told whose prefix cache a request may use."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

pytest.importorskip("vllm")

from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.classify.protocol import (
    ClassificationChatRequest,
    ClassificationCompletionRequest,
)
from vllm.entrypoints.pooling.embed.protocol import (
    CohereEmbedRequest,
    EmbeddingChatRequest,
    EmbeddingCompletionRequest,
)
from vllm.entrypoints.pooling.pooling.protocol import (
    PoolingChatRequest,
    PoolingCompletionRequest,
)
from vllm.entrypoints.pooling.scoring.protocol import (
    RerankRequest,
    ScoreTextRequest,
)

from prfaas.gateway.client_api import _ANSWERED, _POOLED, _UNSALTED

BODIES: dict[str, tuple[type[BaseModel], ...]] = {
    "/v1/completions": (CompletionRequest,),
    "/v1/chat/completions": (ChatCompletionRequest,),
    "/v1/responses": (ResponsesRequest,),
    "/v1/messages": (AnthropicMessagesRequest,),
    "/v1/embeddings": (EmbeddingCompletionRequest, EmbeddingChatRequest),
    "/v2/embed": (CohereEmbedRequest,),
    "/pooling": (PoolingCompletionRequest, PoolingChatRequest),
    "/classify": (ClassificationCompletionRequest, ClassificationChatRequest),
    "/score": (ScoreTextRequest,),
    "/v1/score": (ScoreTextRequest,),
    "/rerank": (RerankRequest,),
    "/v1/rerank": (RerankRequest,),
    "/v2/rerank": (RerankRequest,),
}


def test_every_endpoint_that_computes_is_known() -> None:
    assert BODIES.keys() == {*_ANSWERED, *_POOLED}


@pytest.mark.parametrize("path", BODIES)
def test_a_salt_is_known_wherever_tenants_of_their_own_caches_may_ask(path: str) -> None:
    known = ["cache_salt" in body.model_fields for body in BODIES[path]]
    assert all(known) if path not in _UNSALTED else not any(known)
