"""The clients people have, unchanged, against a real deployment; and many of them at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from prfaas.testing.comparing import assert_same_or_near_tie, complete
from prfaas.testing.measuring import prompt

pytestmark = pytest.mark.engine

STORY = "The pilot asked for fresh water. The crane driver sealed the after hold. " * 60


@pytest.fixture
def client(gdn: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gdn.running.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def plain_client(gdn: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gdn.plain.url}/v1", api_key="none", max_retries=0)


def test_openai_completion_streams_the_same_text(
    gdn: Any, client: openai.OpenAI, model: str
) -> None:
    ask: dict[str, Any] = {
        "model": model, "prompt": STORY, "max_tokens": 24, "temperature": 0, "seed": 3,
    }  # fmt: skip
    whole = client.completions.create(**ask)
    chunks = list(
        client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    streamed = "".join(c.choices[0].text for c in chunks if c.choices)
    stock = plain_client(gdn).completions.create(**ask)
    assert whole.choices[0].text == streamed == stock.choices[0].text
    for usage in (whole.usage, chunks[-1].usage):
        assert usage is not None
        assert stock.usage is not None
        # How much of it was cached depends on what each was asked before.
        same = {"prompt_tokens_details": None}
        assert usage.model_copy(update=same) == stock.usage.model_copy(update=same)


def test_openai_chat_with_every_kind_of_parameter(
    gdn: Any, client: openai.OpenAI, model: str
) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You keep the harbour ledger."},
            {"role": "user", "content": STORY},
        ],
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": ["zzz"],
        "presence_penalty": 0.5,
        "logit_bias": {"300": -1},
        "seed": 7,
    }
    raw = client.chat.completions.with_raw_response.create(**ask)
    assert raw.headers["x-prfaas-route"].startswith("offload")
    ours, stock = raw.parse(), plain_client(gdn).chat.completions.create(**ask)
    assert ours.choices[0].message.content == stock.choices[0].message.content
    assert ours.choices[0].finish_reason == stock.choices[0].finish_reason
    assert ours.choices[0].logprobs is not None
    assert stock.choices[0].logprobs is not None
    assert ours.choices[0].logprobs.content is not None
    assert [t.token for t in ours.choices[0].logprobs.content] == [
        t.token for t in stock.choices[0].logprobs.content or []
    ]
    assert ours.usage is not None
    assert stock.usage is not None
    assert ours.usage.prompt_tokens == stock.usage.prompt_tokens


def test_usage_counts_what_was_cached_and_not_what_crossed(
    client: openai.OpenAI, model: str
) -> None:
    def cached(prompt: str, *, stream: bool) -> int:
        """Prompt tokens that an offloaded answer calls cached."""
        ask: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 2}
        raw: Any
        if stream:
            with_usage = {"stream": True, "stream_options": {"include_usage": True}}
            raw = client.completions.with_raw_response.create(**ask, **with_usage)
            usage = list(raw.parse())[-1].usage
        else:
            raw = client.completions.with_raw_response.create(**ask)
            usage = raw.parse().usage
        assert raw.headers["x-prfaas-route"].startswith("offload")
        assert int(raw.headers["x-prfaas-kv-bytes"]) > 0
        assert usage.prompt_tokens > 1000
        return int(usage.prompt_tokens_details.cached_tokens)

    first = "The pilot of the third watch kept a log of tides. " * 100
    assert cached(first, stream=False) == 0
    # Of the same beginning both engines hold all whole blocks.
    tokens = client.completions.create(model=model, prompt=first, max_tokens=1).usage
    assert tokens is not None
    again = cached(first + STORY, stream=True)
    assert 0 < again <= tokens.prompt_tokens


def test_openai_two_choices_share_one_hand_off(client: openai.OpenAI, model: str) -> None:
    raw = client.completions.with_raw_response.create(
        model=model, prompt="Two by two. " + STORY, n=2, temperature=0.8, seed=5, max_tokens=8
    )
    assert raw.headers["x-prfaas-route"].startswith("offload")
    answer = raw.parse()
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_openai_structured_output(client: openai.OpenAI, model: str) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": STORY}],
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )
    content = answer.choices[0].message.content
    assert content is not None
    assert json.loads(content)["n"] in (1, 2)


def test_openai_sees_the_engines_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=model, prompt=STORY, temperature=-1)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="no-such-model", prompt="x")
    with pytest.raises(openai.BadRequestError, match=r"(?i)context|length"):
        client.completions.create(model=model, prompt=[300] * 40000, max_tokens=1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(gdn: Any, model: str) -> None:
    body = json.dumps({"model": model, "prompt": STORY, "max_tokens": 4, "stream": True})
    out = subprocess.run(
        ["curl", "-sSN", "-i", f"{gdn.running.url}/v1/completions",
         "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "200 OK" in out
    assert "x-prfaas-route: " in out.lower()
    assert out.rstrip().endswith("data: [DONE]")


def test_vllm_bench_serve(gdn: Any, model: str, tmp_path: Path) -> None:
    path = gdn.running.deployment.model.path
    tokens = gdn.speed.tokens_lasting(1.0, least=300, most=1500)
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve",
        "--backend", "openai", "--base-url", gdn.running.url, "--endpoint", "/v1/completions",
        "--model", model, "--tokenizer", path, "--dataset-name", "random",
        "--random-input-len", str(tokens), "--random-output-len", "8", "--num-prompts", "6",
        "--request-rate", "2", "--save-result", "--result-dir", str(tmp_path),
    ]  # fmt: skip
    # The CPU build is another distribution, without which the command does not start.
    shim = tmp_path / "vllm-0.32.0+cpu.dist-info"
    shim.mkdir()
    (shim / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = tmp_path.glob("*.json")
    assert json.loads(result.read_text())["completed"] == 6


def test_sixteen_at_once_by_every_route(gdn: Any, model: str) -> None:
    """All are answered. A greedy answer that differs from the one asked alone must differ first
    where the stock engine's own best two tokens nearly tie (another batch, another rounding)."""
    long = gdn.speed.tokens_lasting(1.5, least=300, most=900)
    prompts = [prompt(f"page {i}", 50 if i % 4 == 0 else long * (1 + i % 3)) for i in range(16)]
    gateways = [gdn.running.url, gdn.local.url]
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(complete, gateways[i % 2], model, ids) for i, ids in enumerate(prompts)]
        answers = [job.result() for job in jobs]
    assert {route.split(";")[0] for _, route in answers} == {"offload", "pd-p", "direct"}
    for ids, (choice, _) in zip(prompts, answers, strict=True):
        alone, _ = complete(gdn.plain.url, model, ids)
        assert_same_or_near_tie(choice, alone)
