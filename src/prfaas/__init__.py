"""Prefill-as-a-Service: a KV cache that crosses datacentres."""

__version__ = "0.2.0"
