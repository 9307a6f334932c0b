"""Hybrid prefix cache pool bookkeeping, prefix index, eviction. Pure."""
