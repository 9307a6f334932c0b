"""Real engines, of which some have a LoRA adapter: what asks for it is prefilled and decoded there,
with a KV cache of its own, and where it is loaded later as well."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.integration.test_pool import ask, choice, until
from tests.integration.test_pool_pulls import drain

from prfaas.testing.calling import Answer, call
from prfaas.testing.comparing import assert_same_or_near_tie, greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import RunningDeployment
from prfaas.tiny_models.kinds import CONFIGS

pytestmark = [pytest.mark.engine, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("adapters.yaml")
RANK = 8
LENGTH = 700


def write_adapter(folder: Path) -> Path:
    """An adapter of the dense tiny model, as PEFT lays it out, that changes what it says."""
    config = CONFIGS["dense"]
    hidden, width = config["hidden_size"], config["head_dim"]
    outs = {
        "q_proj": config["num_attention_heads"] * width,
        "v_proj": config["num_key_value_heads"] * width,
    }
    random = np.random.default_rng(7)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in outs.items():
            base = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            shapes = {"lora_A": (RANK, hidden), "lora_B": (out, RANK)}
            for part, shape in shapes.items():
                weights = random.normal(0, shape[1] ** -0.5, shape)
                tensors[f"{base}.{part}.weight"] = weights.astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK,
        "target_modules": sorted(outs), "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def way(answer: Answer) -> tuple[str, str | None, str | None]:
    told = answer.headers
    route = told["x-prfaas-route"].split(";")[0]
    return route, told.get("x-prfaas-prefill-engine"), told.get("x-prfaas-decode-engine")


def cached_tokens(answer: Answer) -> int:
    return int(answer.headers["x-prfaas-cached-tokens"])


def test_an_adapter_is_served_where_it_is_loaded(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    able = ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(RANK)]
    loaded = [*able, "--lora-modules", f"tuned={adapter}"]
    file = tmp_path / "adapters.yaml"
    text = Template(DEPLOYMENT.read_text())
    file.write_text(text.substitute(able=json.dumps(able), loaded=json.dumps(loaded)))
    with RunningDeployment(file, tmp_path / "up", model="tiny:dense") as running:
        model = str(running.deployment.model.served_name)
        names = [card["id"] for card in call(f"{running.url}/v1/models").json()["data"]]
        assert sorted(names) == sorted([model, "tuned"])

        ids = prompt("adapter", LENGTH)
        handed = ask(running.url, "tuned", ids)
        assert way(handed) == ("offload", "east-prefill", "west-tuned")
        # An engine that computes all of it itself says the same, and without the adapter another.
        own = ask(running.engine("west-tuned").url, "tuned", ids, cache_salt="of its own")
        assert_same_or_near_tie(choice(handed), choice(own))
        plain = ask(running.url, model, ids)
        assert cached_tokens(plain) == 0
        assert choice(plain)["token_ids"] != choice(own)["token_ids"]
        # What it has cached is found again, for the adapter alone.
        block = running.deployment.model.block_tokens
        whole = (LENGTH - 1) // block * block
        until(lambda: cached_tokens(ask(running.url, "tuned", ids)) == whole, "it is not found")

        for number in range(4):
            answer = ask(running.url, "tuned", prompt(f"adapter {number}", LENGTH))
            assert way(answer) == ("offload", "east-prefill", "west-tuned")

        load = {"lora_name": "tuned", "lora_path": str(adapter)}
        told = call(f"{running.engine('west-plain').url}/v1/load_lora_adapter", load)
        assert told.status == 200, told.body
        drain(running, "west-tuned")
        until(lambda: answers_elsewhere(running, ids), "nobody finds where it was loaded")
        moved = ask(running.url, "tuned", ids)
        assert way(moved)[2] == "west-plain"
        assert_same_or_near_tie(choice(moved), choice(own))


def answers_elsewhere(running: RunningDeployment, ids: list[int]) -> bool:
    return call(f"{running.url}/v1/completions", greedy("tuned", ids)).status == 200
