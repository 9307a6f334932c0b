"""LiteLLM as a client, unchanged, in an environment of its own: it brings dozens of packages.

``LITELLM=/path/to/python``: of an environment that has it; else this one's, if it does.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from prfaas.testing.mock_deployment import MockDeployment
from prfaas.testing.mock_engine import expected_words

PROMPT = "long enough to be handed over to the other cluster, and then more of it"
python = os.environ.get("LITELLM") or (
    sys.executable if importlib.util.find_spec("litellm") else None
)
CLIENT = """
import json, sys
import litellm

url, prompt = sys.argv[1:]
ask = {"api_base": url + "/v1", "api_key": "none", "max_retries": 0, "max_tokens": 8}
chat = {"model": "openai/mock-model", "messages": [{"role": "user", "content": prompt}], **ask}
whole = litellm.completion(**chat)
stream = litellm.completion(**chat, stream=True)
text = litellm.text_completion(model="text-completion-openai/mock-model", prompt=prompt, **ask)
try:
    litellm.completion(**{**chat, "model": "openai/none"})
    refused = None
except litellm.exceptions.NotFoundError as error:
    refused = error.status_code
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "streamed": "".join(part.choices[0].delta.content or "" for part in stream),
    "text": text.choices[0].text,
    "refused": refused,
}))
"""


@pytest.mark.skipif(python is None, reason="no litellm: LITELLM=/path/to/its/python")
async def test_chat_stream_text_and_an_error_are_understood() -> None:
    assert python is not None
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        environment.pop("PYTHONPATH", None)
        process = await asyncio.create_subprocess_exec(
            python, "-c", CLIENT, str(client._base_url).rstrip("/"), PROMPT,
            env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        routes = {request.route for request in mock.gateway.requests.recent}
    chat = "".join(expected_words(list(f"<user>{PROMPT}".encode())))
    # It has advice on its own errors to print, too.
    assert json.loads(out.splitlines()[-1]) == {
        "whole": chat,
        "streamed": chat,
        "text": "".join(expected_words(list(PROMPT.encode()))),
        "refused": 404,
    }
    assert "offload" in routes
