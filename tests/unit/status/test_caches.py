"""Tiers are what the agents' metrics name; one without a name is the arena."""

from prfaas.status.caches import caches_of, hit_share
from prfaas.status.exposition import MetricsPage
from prfaas.status.snapshot import CacheStatus


def test_an_arena_alone_has_no_name() -> None:
    page = MetricsPage(
        "# TYPE prfaas_pool_cache_used_bytes gauge\nprfaas_pool_cache_used_bytes 5.0\n"
        "# TYPE prfaas_pool_cache_size_bytes gauge\nprfaas_pool_cache_size_bytes 8.0\n"
    )
    assert caches_of(page) == [CacheStatus(tier="memory", used_bytes=5, size_bytes=8)]


def test_tiers_are_told_apart() -> None:
    page = MetricsPage(
        "# TYPE prfaas_pool_cache_used_bytes gauge\n"
        'prfaas_pool_cache_used_bytes{tier="ssd"} 5.0\n'
        "# TYPE prfaas_pool_cache_size_bytes gauge\n"
        'prfaas_pool_cache_size_bytes{tier="ssd"} 9.0\n'
        'prfaas_pool_cache_size_bytes{tier="memory"} 0.0\n'
    )
    assert caches_of(page) == [CacheStatus(tier="ssd", used_bytes=5, size_bytes=9)]


def test_hits_are_a_share_of_what_was_asked() -> None:
    page = MetricsPage(
        "# TYPE vllm:prefix_cache_queries counter\n"
        'vllm:prefix_cache_queries_total{engine="0"} 200.0\n'
        'vllm:prefix_cache_queries_total{engine="1"} 200.0\n'
        "# TYPE vllm:prefix_cache_hits counter\n"
        'vllm:prefix_cache_hits_total{engine="0"} 100.0\n'
    )
    assert hit_share(page) == 0.25
    assert hit_share(MetricsPage("")) is None
    assert caches_of(MetricsPage("")) == []
