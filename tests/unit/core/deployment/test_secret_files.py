"""Which files a gateway reads again when they change."""

from __future__ import annotations

from prfaas.core.deployment import parse_deployment

FILE = """
clusters:
  - name: west
    kind: pd
    engines:
      - name: w1
        role: decode
        url: "https://w1.example:8001"
        ca: /e/ca.pem
        api_key_file: /e/key
      - {name: w2, role: decode, url: "http://127.0.0.1:8002"}
    agent:
      name: west-agent
      admin: "10.0.0.1:7401"
      tls: {ca: /c/ca.pem, cert: /c/w.pem, key: /c/w-key.pem}
gateway:
  tls: {cert: /f/front.pem, key: /f/front-key.pem}
  agent_tls: {ca: /c/ca.pem, cert: /c/g.pem, key: /c/g-key.pem, crl: /c/crl.pem}
  api_keys_file: /k/clients
  operator_keys_file: /k/operators
  tenants: [{name: t, api_keys_file: /k/t}]
"""


def test_every_key_certificate_authority_and_list_of_a_gateway_is_watched() -> None:
    found = parse_deployment(FILE, source="x").secret_files
    assert sorted(found) == sorted(
        [
            "/e/ca.pem", "/e/key",
            "/f/front.pem", "/f/front-key.pem",
            "/c/ca.pem", "/c/g.pem", "/c/g-key.pem", "/c/crl.pem", "/c/cache.key",
            "/k/clients", "/k/operators", "/k/t",
        ]
    )  # fmt: skip
