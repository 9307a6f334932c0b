"""What the command line says goes before what the deployment file says."""

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError, EngineError
from prfaas.launch import start
from prfaas.launch.commands import journal_of
from prfaas.launch.start import journal_beside, load, usable_gpus

FILE = """
clusters:
  - {name: west, kind: pd, agent: {name: a}, engines: [{name: d1, role: decode}]}
model: {path: "tiny:mla", served_name: mine}
gateway: {listen: "127.0.0.1:8000", max_inflight_requests: 7}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "deployment.yaml"
    path.write_text(FILE)
    return path


def test_a_file_is_taken_as_it_is(file: Path) -> None:
    deployment = load(file, model=None, listen=None)
    assert (deployment.model.path, deployment.model.served_name) == ("tiny:mla", "mine")
    assert deployment.gateways[0].listen == "127.0.0.1:8000"


def test_another_model_is_served_under_its_own_name(file: Path) -> None:
    deployment = load(file, model="tiny:dense", listen=None)
    assert (deployment.model.path, deployment.model.served_name) == ("tiny:dense", None)


def test_another_address_leaves_the_rest_of_the_gateway(file: Path) -> None:
    (gateway,) = load(file, model=None, listen="127.0.0.1:9000").gateways
    assert (gateway.listen, gateway.max_inflight_requests) == ("127.0.0.1:9000", 7)


@pytest.mark.parametrize("word", ["tiny:gdn", "Qwen/Qwen3-0.6B", "."])
def test_a_model_in_the_place_of_the_file_is_known_as_one(word: str) -> None:
    with pytest.raises(ConfigError, match=f"is no deployment file; did you mean --model {word}"):
        load(Path(word), model=None, listen=None)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("deployments/none.yaml"), model=None, listen=None)


def test_without_a_file_there_are_two_clusters() -> None:
    kinds = [cluster.kind for cluster in load(None, model=None, listen=None).clusters]
    assert sorted(kinds) == ["pd", "prfaas"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml", model=None, listen=None)


@pytest.mark.parametrize(("vllm", "gpus"), [("gpu", ["0"]), ("cpu", []), (None, [])])
def test_vllm_for_cpus_uses_no_gpu(
    vllm: str | None, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks on the CPU were refused on a machine with one GPU."""

    def installed() -> str:
        if vllm is None:
            raise EngineError("vLLM is not installed here")
        return vllm

    monkeypatch.setattr(start, "installed_vllm", installed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert usable_gpus() == gpus


@pytest.mark.parametrize(
    ("gateways", "names"),
    [
        ("gateway: {name: g}", ["journal.jsonl"]),
        (
            'gateways: [{name: g}, {name: h, listen: "127.0.0.1:1"}]',
            ["journal-g.jsonl", "journal-h.jsonl"],
        ),
    ],
)
def test_a_journal_beside_the_logs_is_as_private(
    gateways: str, names: list[str], file: Path, tmp_path: Path
) -> None:
    text = FILE.splitlines()[:-1]
    file.write_text("\n".join([*text, gateways]))
    deployment = load(file, model=None, listen=None)
    logs = tmp_path / "logs"
    logs.mkdir()
    whole = journal_beside(logs, deployment)
    assert sorted(path.name for path in logs.iterdir()) == names
    assert {path.stat().st_mode & 0o777 for path in logs.iterdir()} == {0o600}
    assert journal_of(deployment.gateway, deployment, whole) == logs / names[0]
