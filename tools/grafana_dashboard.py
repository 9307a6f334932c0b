"""Write the Grafana dashboard: ``python tools/grafana_dashboard.py > monitoring/grafana.json``."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

_GW = "prfaas_gateway_"
_SCHED = "prfaas_scheduler_"
_POOL = "prfaas_pool_"
_LINK = "prfaas_link_"

# Row -> panels: (title, unit, then each query with its legend).
ROWS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "What clients see": [
        ("Requests by outcome", "reqps",
         {f"sum by (outcome) (rate({_GW}requests_total[1m]))": "{{outcome}}"}),
        ("Requests by route", "reqps",
         {f"sum by (route) (rate({_GW}requests_total[1m]))": "{{route}}"}),
        ("TTFT", "s", {
            "prfaas:ttft_seconds:p50": "P50 {{route}}",
            "prfaas:ttft_seconds:p99": "P99 {{route}}",
        }),
        ("TPOT, P99", "s", {"prfaas:tpot_seconds:p99": "{{route}}"}),
        ("First tokens within the SLO", "percentunit", {"prfaas:slo:ratio": "tenant {{tenant}}"}),
        ("Refused", "reqps",
         {f"sum by (tenant, cause) (rate({_GW}refusals_total[1m]))": "{{tenant}} {{cause}}"}),
    ],
    "Where time and work go": [
        ("Utilisation of each stage: the highest is the bottleneck", "percentunit",
         {"prfaas:stage_utilisation:ratio": "{{stage}} {{cluster}} {{peer}}"}),
        ("Seconds of each stage, mean", "s", {
            f"sum by (stage) (rate({_GW}stage_seconds_sum[1m])) "
            f"/ sum by (stage) (rate({_GW}stage_seconds_count[1m]))": "{{stage}}",
        }),
        ("Prefill queues", "s",
         {f'{_SCHED}engine_prefill_queue_seconds{{role="prefill"}}': "{{engine}}"}),
        ("Sequences that decode", "short",
         {f'{_SCHED}engine_running_sequences{{role="decode"}}': "{{engine}}"}),
        ("Waiting", "short", {
            f"{_SCHED}waiting_requests": "for a decode slot, {{cluster}}",
            f"{_SCHED}live_requests": "all live requests",
        }),
        ("Threshold that would carry most", "short", {f"{_SCHED}threshold_tokens": "{{cluster}}"}),
        ("8K tokens should take", "s", {f"{_SCHED}expected_prefill_seconds": "{{engine}}"}),
        ("Roles changed in ten minutes", "short",
         {f"sum by (role) (increase({_SCHED}role_changes_total[10m]))": "to {{role}}"}),
    ],
    "Lines": [
        ("Goodput", "Bps", {f"{_LINK}goodput_bytes_per_second": "{{agent}} to {{peer}}"}),
        ("Utilisation and congestion", "percentunit", {
            f"{_LINK}utilisation_ratio": "used, to {{peer}}",
            f"{_LINK}congestion_ratio": "congested, to {{peer}}",
        }),
        ("Round trip", "s", {f"{_LINK}rtt_seconds": "{{agent}} to {{peer}}"}),
        ("Sent again", "Bps", {f"rate({_LINK}resent_bytes_total[1m])": "{{agent}} to {{peer}}"}),
        ("KV sent while prefill ran", "percentunit", {"prfaas:kv_hidden:ratio": "hidden"}),
        ("Dial errors", "short",
         {f"sum by (peer, cause) (rate({_LINK}dial_errors_total[5m]))": "{{peer}} {{cause}}"}),
    ],
    "Memory and caches": [
        ("Arena slots", "short", {f"{_POOL}slots": "{{agent}} {{state}}"}),
        ("Cached prefixes", "bytes", {
            f"{_POOL}cache_used_bytes": "used, {{tier}}, {{agent}}",
            f"{_POOL}cache_size_bytes": "most, {{tier}}, {{agent}}",
        }),
        ("Prompt tokens", "short",
         {f"sum by (cached) (rate({_GW}prompt_tokens_total[1m]))": "cached: {{cached}}"}),
        ("Tokens loaded from agents", "short",
         {f"rate({_POOL}loaded_tokens_total[1m])": "{{agent}}"}),
        ("Imports that failed", "short",
         {f'rate({_POOL}imports_total{{outcome="failed"}}[5m])': "{{agent}}"}),
        ("Blocks known", "short", {f"{_GW}index_distinct_blocks": "distinct"}),
    ],
    "What is there": [
        ("Engines that are used", "short", {f"sum({_GW}engine_up)": "up"}),
        ("Lines that are up", "short", {f"{_GW}link_up": "{{source}} to {{target}}"}),
        ("Certificates: days left", "d", {
            "(prfaas_agent_certificate_expires_timestamp_seconds - time()) / 86400":
                "{{agent}}, {{file}}",
            "(prfaas_gateway_certificate_expires_timestamp_seconds - time()) / 86400":
                "{{instance}}, {{file}}",
        }),
        ("Clients' connections", "short", {f"{_GW}connections": "{{kind}}"}),
    ],
}  # fmt: skip
_WIDTH, _HEIGHT, _ACROSS = 8, 7, 3


def dashboard() -> dict[str, Any]:
    """In Grafana's JSON model."""
    ids, panels, y = count(1), [], 0
    for row, found in ROWS.items():
        panels.append({"id": next(ids), "type": "row", "title": row, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})  # fmt: skip
        y += 1
        for number, panel in enumerate(found):
            at = number % _ACROSS * _WIDTH, y + number // _ACROSS * _HEIGHT
            panels.append({"id": next(ids), **_panel(*panel), "gridPos": {
                "x": at[0], "y": at[1], "w": _WIDTH, "h": _HEIGHT}})  # fmt: skip
        y += -(-len(found) // _ACROSS) * _HEIGHT
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource"}
    return {
        "title": "PrfaaS",
        "uid": "prfaas",
        "tags": ["prfaas", "vllm"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source | {"query": "prometheus"}]},
        "panels": panels,
    }


def _panel(title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(queries.items())
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
