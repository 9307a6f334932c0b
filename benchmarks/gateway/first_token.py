"""Time to the first token of a long text, through our gateway and through vllm-router, before the
same real engine: of fresh prompts, and of the same asked again, of which all but the end is cached.

    python -m benchmarks.gateway.first_token --routers /path/to/venv [--tokens 27000] [--rounds 5]

One engine answers (CPU, a tiny model), so both route the same way. It is also asked without anyone
before it. What is left of a cached prompt's time is reading its text, tokenising it, and one step.
Rounds alternate; every figure is a median. Writes build/bench/first_token.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.gateway.contenders import RUN, running

from prfaas.launch.addresses import free_address
from prfaas.testing.calling import call
from prfaas.testing.running import RunningDeployment

OUT = RUN / "first_token.json"
DEPLOYMENT = """
clusters:
- name: here
  kind: pd
  engines: [{name: d1, role: decode}]
  agent: {name: agent, plaintext: true, arena: 64 MiB}
"""
SETTLE_S = 1.3
"""A vLLM worker polls for a second after its last step."""


def text(engine: str, model: str, tokens: int) -> str:
    """Words of nobody's language, about so many tokens, at most 1% more or less."""

    def words(letters: int) -> str:
        return "".join(random.choices(string.ascii_lowercase + "     ", k=letters))

    letters = tokens
    while True:
        found = words(letters)
        count = call(f"{engine}/tokenize", {"model": model, "prompt": found}).json()["count"]
        if abs(count - tokens) <= tokens // 100:
            return found
        letters = letters * tokens // count


def first_token_s(url: str, model: str, prompt: str) -> float:
    """Seconds to the first event of a streamed answer, read to its end."""
    body = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    data = json.dumps(body).encode()
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = response.readline()
    seconds = time.perf_counter() - began
    rest = response.read()
    connection.close()
    if response.status != 200 or not first.startswith(b"data: {") or b"[DONE]" not in rest:
        sys.exit(f"{url}: {response.status} {first!r}")
    return seconds


def measure(
    urls: dict[str, str], make: Callable[[], str], model: str, rounds: int
) -> list[dict[str, object]]:
    """A row for each of ``urls``: medians with all that was measured."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for router in random.sample(list(urls), len(urls)):
            prompt = make()
            for kind in ("fresh", "cached"):
                time.sleep(SETTLE_S)
                seconds = first_token_s(urls[router], model, prompt)
                if number:  # The first round warms up.
                    times.setdefault((router, kind), []).append(seconds)
    rows: list[dict[str, object]] = []
    for (router, kind), found in sorted(times.items()):
        spread = [round(min(found) * 1e3, 1), round(max(found) * 1e3, 1)]
        rows.append({
            "router": router, "prompt": kind, "ttft_ms": round(median(found) * 1e3, 1),
            "spread_ms": spread, "rounds": len(found),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--routers", type=Path, required=True, help="where vllm-router is installed"
    )
    parser.add_argument("--tokens", type=int, default=27_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = home / "deployment.yaml"
        file.write_text(DEPLOYMENT)
        up = stack.enter_context(RunningDeployment(file, home / "up"))
        engine, model = up.engine("d1").url, up.deployment.model.served_name
        assert engine is not None
        address = free_address()
        host, _, port = address.rpartition(":")
        program = [str(args.routers / "bin" / "python"), "-m", "vllm_router.launch_router"]
        program += ["--host", host, "--port", port, "--worker-urls", engine]
        program += ["--prometheus-port", free_address().rpartition(":")[2]]
        stack.enter_context(running(program, f"http://{address}", "/health"))
        urls = {"none": engine, "prfaas": up.url, "vllm-router": f"http://{address}"}
        rows = measure(urls, lambda: text(engine, model, args.tokens), model, args.rounds)
    for row in rows:
        print(json.dumps(row))
    OUT.write_text(json.dumps({"tokens": args.tokens, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
