"""OpenAI's client for Node, unchanged.

``NODE_PATH=/path/to/node_modules``: where ``npm install openai`` has put it; else it is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from prfaas.testing.mock_deployment import MockDeployment
from prfaas.testing.mock_engine import expected_words

PROMPT = "long enough to be handed over to the other cluster, and then more of it"
node = shutil.which("node")
modules = [Path(place) for place in os.environ.get("NODE_PATH", "").split(os.pathsep) if place]
installed = node is not None and any((place / "openai").is_dir() for place in modules)
CLIENT = """
const { OpenAI } = require("openai");
const [url, prompt] = process.argv.slice(1);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

async function main() {
  const ask = { model: "mock-model", max_tokens: 8 };
  const chat = { ...ask, messages: [{ role: "user", content: prompt }] };
  const { data, response } = await client.chat.completions.create(chat).withResponse();
  let streamed = "";
  for await (const part of await client.chat.completions.create({ ...chat, stream: true })) {
    streamed += part.choices[0]?.delta?.content ?? "";
  }
  const text = await client.completions.create({ ...ask, prompt });
  const told = { model: "mock-model", input: prompt, max_output_tokens: 16 };
  const whole = await client.responses.create(told);
  let said = "";
  for await (const event of await client.responses.create({ ...told, stream: true })) {
    if (event.type === "response.output_text.delta") said += event.delta;
  }
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  let refused = null;
  try { await client.completions.create({ ...ask, model: "none", prompt }); }
  catch (error) { refused = [error.constructor.name, error.status]; }
  console.log(JSON.stringify({
    whole: data.choices[0].message.content, route: response.headers.get("x-prfaas-route"),
    streamed, text: text.choices[0].text,
    response: whole.output_text, said, models, refused,
  }));
}

main().catch((error) => { console.error(error); process.exit(1); });
"""


def words_of(text: str) -> str:
    return "".join(expected_words(list(text.encode())))


@pytest.mark.skipif(not installed, reason="no openai for Node: NODE_PATH=/path/to/node_modules")
async def test_chat_text_responses_streams_and_an_error_are_understood() -> None:
    assert node is not None
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        process = await asyncio.create_subprocess_exec(
            node, "-e", CLIENT, "--", str(client._base_url).rstrip("/"), PROMPT,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
    assert process.returncode == 0
    told = json.loads(out)
    assert told.pop("route").startswith("offload; ")
    chat = words_of(f"<user>{PROMPT}")
    assert told == {
        "whole": chat,
        "streamed": chat,
        "text": words_of(PROMPT),
        "response": words_of(PROMPT),
        "said": words_of(PROMPT),
        "models": ["mock-model"],
        "refused": ["NotFoundError", 404],
    }
