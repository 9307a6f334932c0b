"""The lock files, and the scripts that make and read them."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prfaas.testing.loading import load_script

ROOT = Path(__file__).parents[3]
LOCK = load_script(ROOT / "tools" / "lock.py")
LACKING = load_script(ROOT / "tools" / "lacking.py")
NEWEST = load_script(ROOT / "tools" / "newest.py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(extras: tuple[str, ...]) -> set[str]:
    """Names that pyproject.toml asks for."""
    found, todo = set(), [*PROJECT["dependencies"]]
    for extra in extras:
        todo += PROJECT["optional-dependencies"][extra]
    for requirement in todo:
        name, inner = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?.*", requirement).groups()
        if name == "prfaas":
            found |= asked(tuple(inner.split(",")))
        else:
            found.add(name)
    return found - {"torch"}


@pytest.mark.parametrize("name", LOCK.FILES)
def test_every_package_is_there_once_with_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    names = [entry.partition("==")[0] for entry in entries]
    assert asked(LOCK.FILES[name]) <= set(names)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "torch" not in names
    assert "://" not in text
    assert "index-url" not in text


def test_the_smaller_file_has_the_larger_ones_versions() -> None:
    pinned = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)
    base, whole = (set(pinned.findall((ROOT / name).read_text())) for name in
                   ("images/base.lock", "requirements.lock"))  # fmt: skip
    assert base <= whole


def test_what_is_installed_needs_nothing_that_the_lock_file_has_not() -> None:
    """uv reads what a package needs from one of its files, which need not all say the same."""
    entries = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    known = {canonicalize_name(name) for name in (*entries, *LOCK._NOT_LOCKED)}
    lacking = set()
    for name in entries:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # For another Python or machine.
        for need in map(Requirement, needs):
            here = need.marker is None or need.marker.evaluate({"extra": ""})
            if here and canonicalize_name(need.name) not in known:
                lacking.add(f"{name} needs {need}")
    assert lacking == set()


def test_the_condition_of_every_place_is_left_out_and_others_stay() -> None:
    everywhere = "python_full_version < '3.14'"
    text = f"a==1 ; {everywhere} \\\n    --hash=sha256:0\nb==2 ; other \\\n# uv's last words\n"
    tidy = LOCK.tidied(text, everywhere)
    assert tidy == "a==1 \\\n    --hash=sha256:0\nb==2 ; other \\\n"


def test_only_what_is_lacking_is_printed() -> None:
    lock = "# made\nA_b==1 \\\n    --hash=sha256:0\n    # via c\nc==2 \\\n    --hash=sha256:1\n"
    assert LACKING.lacking(lock, ["a.B"]) == "c==2 \\\n    --hash=sha256:1\n"
    assert LACKING.lacking(lock, ["C"]) == "A_b==1 \\\n    --hash=sha256:0\n"


def test_what_is_newer_than_the_lock_file() -> None:
    lock = "a==1.0 \\\n    --hash=sha256:0\nb==2.0 ; python_version < '3' \\\n"
    found = NEWEST.newer(lock, {"a": "1.1", "b": "2.0", "c": "3"})
    assert found == [("a", "1.0", "1.1"), ("c", "", "3")]


def test_images_and_setup_install_by_hashes() -> None:
    for file in (
        "Makefile",
        *(f"images/{n}.Dockerfile" for n in ("base", "engine-cpu", "engine-gpu")),
    ):
        text = (ROOT / file).read_text()
        assert "--no-deps --require-hashes" in text, file
    cpu, (torch,) = (
        (ROOT / "images/engine-cpu.Dockerfile").read_text(),
        NEWEST._TORCH.findall((ROOT / "Makefile").read_text()),
    )
    assert f"pip install --no-cache-dir {torch} " in cpu


def test_nothing_that_happens_to_lie_here_gets_into_an_image() -> None:
    """Keys and certificates are made beside the Dockerfiles, as the docs say."""
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and r[0] != "#"]
    assert rules[0] == "*"
    taken = {rule[1:] for rule in rules if rule.startswith("!")}
    read = {
        name
        for file in (ROOT / "images").glob("*.Dockerfile")
        for name in re.findall(r"/source/([\w./-]+)", file.read_text())
    }
    assert {"images/base.lock", "requirements.lock"} <= read
    for name in read | {"pyproject.toml", "README.md", "LICENSE", "tools/compiled_wheel.py"}:
        assert name in taken or name.partition("/")[0] in taken, name
