"""What Prometheus sees. Never labelled by request."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge

from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.feeds import Feed
from prfaas.gateway.layouts import Mismatch, named
from prfaas.gateway.read_counter import ReadCounter
from prfaas.gateway.tallies import Tally, Times
from prfaas.kv_events.feed import FeedState
from prfaas.process.connections import Connections
from prfaas.scheduler.commands import ChangeRole

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1)


class GatewayMetrics:
    """All of the gateway's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._count_requests(r)
        self._count_clients(r)
        self._count_fleet(r)
        self._count_caches(r)

    def _count_requests(self, r: CollectorRegistry) -> None:
        """What becomes of requests, and how long they take."""
        self.requests = Tally(
            "prfaas_gateway_requests_total",
            "Requests that ended, by route and outcome.",
            ("endpoint", "route", "outcome"),
            registry=r,
        )
        self.inflight = Gauge(
            "prfaas_gateway_inflight_requests", "Requests being answered.", registry=r
        )
        self.ttft = Times(
            "prfaas_gateway_time_to_first_token_seconds",
            "Arrival to the first byte of the answer (streamed answers only).",
            ("route", "tenant"),
            buckets=_SECONDS,
            registry=r,
        )
        self.tpot = Times(
            "prfaas_gateway_time_per_output_token_seconds",
            "Mean time of a token after the first (streamed answers only).",
            ("route", "tenant"),
            buckets=_TOKEN_SECONDS,
            registry=r,
        )
        self.stage = Times(
            "prfaas_gateway_stage_seconds",
            "Seconds in each stage of a request.",
            ("stage", "route"),
            buckets=_SECONDS,
            registry=r,
        )
        self.retries = Tally(
            "prfaas_gateway_retries_total", "Attempts beyond a request's first.", registry=r
        )
        self.kv_bytes = Tally(
            "prfaas_gateway_kv_bytes_total", "KV bytes handed over.", ("route",), registry=r
        )
        self.kv_bytes_hidden = Tally(
            "prfaas_gateway_kv_hidden_bytes_total",
            "KV bytes that had arrived before prefill ended.",
            ("route",),
            registry=r,
        )
        self.tokens = Tally(
            "prfaas_gateway_prompt_tokens_total",
            "Prompt tokens, cached in the decode cluster or not.",
            ("cached",),
            registry=r,
        )

    def _count_clients(self, r: CollectorRegistry) -> None:
        """Who asks: tenants, connections, what is refused."""
        self.tenant_requests = Tally(
            "prfaas_gateway_tenant_requests_total",
            "Requests that ended, by tenant and outcome.",
            ("tenant", "outcome"),
            registry=r,
        )
        self.tenant_tokens = Tally(
            "prfaas_gateway_tenant_tokens_total",
            "Tokens of requests that ended and were not refused; short prompts by their bytes.",
            ("tenant", "kind"),
            registry=r,
        )
        self.refusals = Counter(
            "prfaas_gateway_refusals_total",
            "Requests that were refused by a rule for tenants; tenant is empty where unknown.",
            ("tenant", "cause"),
            registry=r,
        )
        self._connections = Gauge(
            "prfaas_gateway_connections",
            "Open connections of clients: busy, idle, or of strangers who have shown no key.",
            ("kind",),
            registry=r,
        )
        self._dropped = ReadCounter(
            "prfaas_gateway_connections_dropped",
            "Connections closed since the start, to make room or for being silent.",
            ("why",),
            registry=r,
        )

    def _count_fleet(self, r: CollectorRegistry) -> None:
        """What there is: engines, lines, and the gateway itself."""
        self.ready = Gauge("prfaas_gateway_ready", "1 where /ready answers 200.", registry=r)
        self.engine_up = Gauge(
            "prfaas_gateway_engine_up", "1 while the engine is usable.", ("engine",), registry=r
        )
        self.engine_draining = Gauge(
            "prfaas_gateway_engine_draining",
            "1 while the engine finishes what it has and takes no more.",
            ("engine",),
            registry=r,
        )
        self.engine_role = Gauge(
            "prfaas_gateway_engine_role",
            "1 for the work that the engine is given now.",
            ("engine", "role"),
            registry=r,
        )
        self.role_changes = Counter(
            "prfaas_scheduler_role_changes_total",
            "Engines that were given another role; done=no: in a dry run.",
            ("engine", "role", "done"),
            registry=r,
        )
        self.link_up = Gauge(
            "prfaas_gateway_link_up",
            "1 while KV can travel between the clusters.",
            ("source", "target"),
            registry=r,
        )
        self.machines_cut = Gauge(
            "prfaas_gateway_machines_cut",
            "1 while, of a line that is up, the source's agent has no connection to the target's.",
            ("source", "target"),
            registry=r,
        )
        self._mismatches = Gauge(
            "prfaas_gateway_layout_mismatches",
            "Pairs of a prefill and a decode engine that are not used: their KV layouts differ.",
            ("prefill", "decode"),
            registry=r,
        )
        self.reloads = Counter(
            "prfaas_gateway_deployment_reads_total",
            "Times that a new deployment file was taken over, or refused whole.",
            ("outcome",),
            registry=r,
        )
        for outcome in ("taken", "refused"):
            self.reloads.labels(outcome)
        self.deaths = Counter(
            "prfaas_gateway_background_deaths_total",
            "Tasks of the gateway that died of an error and were started again.",
            ("task",),
            registry=r,
        )
        self.certificate_expires = Gauge(
            "prfaas_gateway_certificate_expires_timestamp_seconds",
            "When the certificate is no longer valid, in Unix seconds.",
            ("file",),
            registry=r,
        )

    def _count_caches(self, r: CollectorRegistry) -> None:
        """What is known of caches."""
        self.hot_copies = ReadCounter(
            "prfaas_gateway_hot_copies",
            "Prefixes copied ahead to agents where they were missed.",
            ("outcome",),
            registry=r,
        )
        self.distinct_blocks = Gauge(
            "prfaas_gateway_index_distinct_blocks",
            "KV blocks known, each counted once.",
            registry=r,
        )
        self._index_blocks = Gauge(
            "prfaas_gateway_index_blocks", "KV blocks known per engine.", ("engine",), registry=r
        )
        self._index_resets = ReadCounter(
            "prfaas_gateway_index_resets", "Times the index was emptied.", ("engine",), registry=r
        )
        self._unplaced = ReadCounter(
            "prfaas_gateway_index_unplaced_blocks",
            "Announced blocks whose place could not be told.",
            ("engine",),
            registry=r,
        )
        self._events_live = Gauge(
            "prfaas_gateway_kv_events_live",
            "1 while the engine's KV events are known to arrive.",
            ("engine",),
            registry=r,
        )
        self._event_batches = ReadCounter(
            "prfaas_gateway_kv_event_batches", "Batches applied.", ("engine",), registry=r
        )
        self._unreadable = ReadCounter(
            "prfaas_gateway_kv_events_unreadable",
            "Messages that were not what vLLM sends.",
            ("engine",),
            registry=r,
        )

    def observe_engine(self, engine: str, role: str, *, up: bool, draining: bool) -> None:
        """Take over what an engine does now, when metrics are read."""
        self.engine_up.labels(engine).set(up)
        self.engine_draining.labels(engine).set(draining)
        for known in ("prefill", "decode"):
            self.engine_role.labels(engine, known).set(role == known)

    def observe_connections(self, book: Connections) -> None:
        """Take over who is connected, when metrics are read."""
        counts = {"busy": book.busy, "idle": book.idle, "stranger": book.strangers}
        for kind, count in counts.items():
            self._connections.labels(kind).set(count)
        for why in ("room", "silent"):
            self._dropped.set(why, to=book.dropped[why])

    def observe_mismatches(self, mismatches: Iterable[Mismatch]) -> None:
        """Take over which engines do not pair, when metrics are read."""
        self._mismatches.clear()
        for found in mismatches:
            pairs = self._mismatches.labels(named(found.prefill), named(found.decode))
            pairs.set(len(found.prefill) * len(found.decode))

    def forget_engine(self, engine: str) -> None:
        """It has left the deployment: what was said of it is no more."""
        for gauge in (self.engine_up, self.engine_draining, self._index_blocks, self._events_live):
            with suppress(KeyError):
                gauge.remove(engine)
        for counter in (
            self._event_batches,
            self._index_resets,
            self._unreadable,
            self._unplaced,
        ):
            counter.remove(engine)
        for role in ("prefill", "decode"):
            with suppress(KeyError):
                self.engine_role.remove(engine, role)

    def observe_feed(self, feed: Feed) -> None:
        """Take over one engine's index state, when metrics are read."""
        follower = feed.follower
        self._index_blocks.labels(feed.engine).set(follower.index.blocks)
        self._events_live.labels(feed.engine).set(feed.state is FeedState.LIVE)
        self._event_batches.set(feed.engine, to=follower.batches_total)
        self._index_resets.set(feed.engine, to=follower.resets_total)
        self._unreadable.set(feed.engine, to=follower.unreadable_total)
        self._unplaced.set(feed.engine, to=follower.index.unplaced_blocks_total)

    def observe_role(self, command: ChangeRole) -> None:
        """A role was changed, or would have been."""
        done = "no" if command.dry_run else "yes"
        self.role_changes.labels(command.engine, command.role, done).inc()

    def observe_request(self, facts: RequestFacts) -> None:
        """Count one request that has ended."""
        route, tenant = facts.route or "none", facts.tenant
        self.requests.add((facts.endpoint, route, facts.outcome))
        self.retries.add((), max(0, facts.attempts - 1))
        if facts.stream and facts.first_token_s is not None:
            self.ttft.observe((route, tenant), facts.first_token_s)
            more = (facts.answer_tokens or 0) - 1
            if facts.completed_s is not None and more > 0:
                spent_s = facts.completed_s - facts.first_token_s
                self.tpot.observe((route, tenant), spent_s / more)
        for stage, start, end in _stages(facts):
            if start is not None and end is not None:
                self.stage.observe((stage, route), max(0.0, end - start))
        self.kv_bytes.add((route,), facts.kv_bytes)
        self.kv_bytes_hidden.add((route,), min(facts.kv_bytes_hidden or 0, facts.kv_bytes))
        self.tenant_requests.add((tenant, facts.outcome))
        prompt = _prompt_tokens(facts)
        cached = min(prompt, facts.cached_tokens)
        self.tenant_tokens.add((tenant, "prompt"), prompt)
        self.tenant_tokens.add((tenant, "answer"), facts.answer_tokens or 0)
        self.tokens.add(("yes",), cached)
        self.tokens.add(("no",), prompt - cached)


def _prompt_tokens(facts: RequestFacts) -> int:
    """As its tenant has used them: none where it was refused, or no engine was asked for it."""
    begun = facts.prefill_started_s is not None or facts.decode_started_s is not None
    return facts.total_tokens or facts.about_tokens or 0 if begun and not facts.refused else 0


def _stages(facts: RequestFacts) -> list[tuple[str, float | None, float | None]]:
    return [
        ("render", 0.0, facts.rendered_s),
        ("wait", facts.rendered_s, facts.prefill_started_s or facts.decode_started_s),
        ("prefill", facts.prefill_started_s, facts.prefilled_s),
        ("transfer_after_prefill", facts.prefilled_s, facts.transferred_s),
        ("decode_wait", facts.transferred_s, facts.decode_started_s),
        ("first_token", facts.decode_started_s, facts.first_token_s),
        ("generate", facts.first_token_s, facts.completed_s),
    ]
