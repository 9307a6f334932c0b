import socket

import pytest

from prfaas.core.addresses import Address
from prfaas.vllm_plugin.open_ports import open_ports, open_ports_warning


def _listening(family: socket.AddressFamily, host: str) -> socket.socket:
    found = socket.socket(family)
    found.bind((host, 0))
    found.listen()
    return found


@pytest.mark.parametrize(
    ("family", "host", "is_open"),
    [
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::1", False),
        (socket.AF_INET6, "::ffff:127.0.0.1", False),
        (socket.AF_INET6, "::", True),
    ],
)
def test_what_other_machines_reach_of_this_process_is_found(
    family: socket.AddressFamily, host: str, is_open: bool
) -> None:
    with _listening(family, host) as heard:
        port = heard.getsockname()[1]
        assert (Address(host, port) in open_ports()) is is_open
        assert (port in {address.port for address in open_ports()}) is is_open
    assert port not in {address.port for address in open_ports()}


def test_connections_and_other_processes_are_not_taken_for_it() -> None:
    with _listening(socket.AF_INET, "0.0.0.0") as heard:
        port = heard.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, heard.accept()[0]:
            assert client.getsockname()[1] not in {address.port for address in open_ports()}


def test_an_operator_is_told_what_to_set() -> None:
    assert open_ports_warning([]) is None
    said = open_ports_warning([Address("10.0.0.2", 4711), Address("::", 99)])
    assert said is not None
    assert "10.0.0.2:4711, [::]:99" in said
    assert "GLOO_SOCKET_IFNAME=lo" in said
