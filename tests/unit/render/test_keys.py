"""Files and variables with keys have a place each in a Secret, or are refused."""

from __future__ import annotations

import pytest

from prfaas.core.errors import ConfigError
from prfaas.render.keys import check_apart, key_name, key_volume


def test_a_file_is_called_by_its_last_part() -> None:
    assert key_name("/etc/prfaas/acme.keys") == "acme.keys"


@pytest.mark.parametrize("path", ["/etc/keys/", "/etc/acme keys", "/etc/..", "/etc/..x", "/etc/ä"])
def test_what_a_secret_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="rename it"):
        key_name(path)


def test_one_source_may_be_named_often() -> None:
    check_apart("s", ["/a/k", "/a/k", None], ["K", "K", None])


@pytest.mark.parametrize(
    ("files", "variables", "reason"),
    [
        (["/etc/acme/keys", "/etc/globex/keys"], [], "would both be 'keys'"),
        (["/etc/KEYS"], ["KEYS"], "would both be 'KEYS'"),
        ([], ["MY KEYS"], "no name of an environment variable"),
    ],
)
def test_two_under_one_name_are_refused(
    files: list[str], variables: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_apart("client-keys", files, variables)


def test_others_than_the_pods_group_cannot_read_it() -> None:
    secret = key_volume("keys", "engine-keys")["secret"]
    assert secret == {"secretName": "engine-keys", "defaultMode": 0o440}
