"""Files of earlier versions, rewritten: a planner's scenario and a simulator's had words of their
own for what a deployment file says."""

from __future__ import annotations

from typing import Any, Literal

from prfaas.core.errors import ConfigError

File = dict[str, Any]


def form_of(file: File) -> Literal["plan", "simulation"] | None:
    """Which of the earlier forms a file has; None: neither."""
    clusters = file.get("clusters")
    if not isinstance(clusters, list) or not all(isinstance(c, dict) for c in clusters):
        return None
    if any(isinstance(c.get("prefill") or c.get("decode"), dict) for c in clusters):
        return "simulation"
    if "lines" in file or any(isinstance(c.get("instances"), int) for c in clusters):
        return "plan"
    return None


def converted(file: File) -> tuple[File, list[str]]:
    """The file in today's form, and what its reader should know.

    Raises ConfigError for a file of neither earlier form, or one without the keys it needs.
    """
    form = form_of(file)
    if form is None:
        raise ConfigError(
            "this is neither a planner's nor a simulator's scenario of before; a file of today's "
            "form needs no converting: 'prfaas plan' and 'prfaas simulate' read it"
        )
    try:
        return _from_plan(file) if form == "plan" else _from_simulation(file)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not what a {form}'s scenario was: {error!r}") from error


def _from_plan(file: File) -> tuple[File, list[str]]:
    old = file["workload"]
    lengths = dict(old["lengths"])
    trace = lengths.pop("trace", None)
    notes: list[str] = []
    held: Any = "unbounded"
    workload: File = {} if trace is not None else {"lengths": lengths}
    if trace is not None:
        trace = dict(trace)
        held = trace.pop("prefix_cache", "unbounded")
        workload["trace"] = trace
        notes.append("the trace's prefix_cache stands at the first PD cluster now")
    workload |= {key: value for key, value in old.items() if key != "lengths"}
    found: File = {"name": file["name"], "clusters": [], "links": []}
    prices: File = {}
    for cluster in file["clusters"]:
        instances = {"count": cluster["instances"], "profile": cluster["profile"]}
        new = {"name": cluster["name"], "kind": cluster["kind"], "instances": instances}
        if trace is not None and cluster["kind"] == "pd":
            new["prefix_cache"] = held
            held = 0
        found["clusters"].append(new)
        if cluster.get("usd_per_gpu_hour") is not None:
            prices.setdefault("usd_per_gpu_hour", {})[cluster["name"]] = cluster["usd_per_gpu_hour"]
    for line in file.get("lines", []):
        ends = {"from": line["from"], "to": line["to"]}
        found["links"].append(ends | _kept(line, {"bandwidth": "rate", "rtt": "rtt"}))
        paid = _kept(line, {"usd_per_month": "usd_per_month", "usd_per_gb": "usd_per_gb"})
        if paid:
            prices.setdefault("links", []).append(ends | paid)
    dtypes = {"kv_dtype": "kv_dtype", "state_dtype": "state_dtype"}
    model = _kept(file, {"model": "path", "kv": "kv_size", **dtypes})
    if model:
        found["model"] = model
    found |= {"workload": workload, "slo": _slo_of_plan(file["slo"])}
    if prices:
        found["prices"] = prices
    if "expectations" in file:
        found["experiments"] = {"expectations": file["expectations"]}
    return found, notes


def _slo_of_plan(old: File) -> File:
    slo: File = {"tpot": f"{1000 / old['tokens_per_s']:g} ms"}
    if old.get("ttft"):
        slo["ttft"] = old["ttft"]["within"]
        slo |= _kept(old["ttft"], {"percentile": "ttft_percentile"})
    return slo


def _from_simulation(file: File) -> tuple[File, list[str]]:
    notes = ["hand-offs end at multiples of model.block_tokens"]
    clusters, links, changes = [], [], []
    for cluster in file["clusters"]:
        pools = [
            {"role": role} | _kept(cluster[role], _POOL)
            for role in ("prefill", "decode")
            if cluster.get(role)
        ]
        new = {"name": cluster["name"], "kind": cluster["kind"], "instances": pools}
        clusters.append(new | _kept(cluster, {"cache": "prefix_cache"}))
    for link in file.get("links", []):
        ends = {"from": link["from"], "to": link["to"]}
        links.append(ends | _kept(link, {k: k for k in ("rate", "rtt", "loss", "connections")}))
        changes += [ends | change for change in link.get("changes", [])]
    old = dict(file.get("workload", {}))
    if "trace" in old:
        old.pop("lengths", None)
        old.pop("output_tokens", None)
    else:
        old["lengths"] = {"lognormal": old.get("lengths", {})}
        old.setdefault("output_tokens", 1024)
    experiments = _kept(file, {k: k for k in ("runs", "failures", "costs", "link_reports", "seed")})
    if changes:
        experiments["line_changes"] = changes
    found: File = {
        "clusters": clusters,
        "links": links,
        "model": {"block_tokens": file.get("block_tokens", 64)},
    }
    if "deadline" in file:
        found["gateway"] = {"request_deadline": file["deadline"]}
    else:
        notes.append("requests have the gateway's deadline now: 300 s where the file names none")
    found |= _kept(file, {"scheduler": "scheduler"})
    found |= {"workload": old, **_kept(file, {"slo": "slo"})}
    if experiments:
        found["experiments"] = experiments
    return found, notes


_POOL = {
    "instances": "count",
    "profile": "profile",
    "batch": "max_num_seqs",
    "kv_tokens": "kv_tokens",
}


def _kept(old: File, names: dict[str, str]) -> File:
    """The keys that are there, under their new names."""
    return {new: old[key] for key, new in names.items() if old.get(key) is not None}
