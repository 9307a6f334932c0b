"""A wrong address of a Ray cluster is said at once."""

from __future__ import annotations

import socket

import pytest

from prfaas.core.errors import ConfigError
from prfaas.launch.ray.head import refuse_unreachable


def test_where_nobody_listens_there_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        refuse_unreachable(address)
    with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}': Connection refused"):
        refuse_unreachable(address)
    with pytest.raises(ConfigError, match=r"no Ray cluster at 'no-such\.invalid:6379'"):
        refuse_unreachable("no-such.invalid:6379")


@pytest.mark.parametrize("address", ["auto", "local", "ray://127.0.0.1:1"])
def test_other_forms_are_rays(address: str) -> None:
    refuse_unreachable(address)
