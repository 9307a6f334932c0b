"""Equations (1) to (5) of "Prefill-as-a-Service" (arXiv 2604.15039, section 3.4), by number.

(6) to (8), which make an operating point and its optimum of them, are `prfaas.planner.split`'s. The
paper's symbols (docs/glossary.md): N instances, Theta throughput in requests per second, Phi_kv KV
throughput, l uncached prompt length. Sizes are bytes, rates bytes per second, times seconds.
"""

from __future__ import annotations


def kv_throughput(kv_bytes: float, prefill_s: float) -> float:
    """(1) Phi_kv(l) = S_kv(l) / T_prefill(l): KV bytes per second that one instance produces."""
    return kv_bytes / prefill_s


def required_egress(instances: float, mean_kv_bytes: float, mean_prefill_s: float) -> float:
    """(2) B_out = (N/P) E[S_kv] / E[T_prefill]: the line a busy prefill cluster fills.

    ``instances`` is N/P: GPUs over GPUs per instance.
    """
    return instances * kv_throughput(mean_kv_bytes, mean_prefill_s)


def prfaas_throughput(
    n_prfaas: float, prefill_s: float, egress_bytes_per_s: float, kv_bytes: float
) -> float:
    """(3) Theta_prfaas = min(N_prfaas / T_prefill(l_long), B_out / S_kv(l_long))."""
    return min(n_prfaas / prefill_s, egress_bytes_per_s / kv_bytes)


def pd_prefill_throughput(n_p: float, prefill_s: float) -> float:
    """(4) Theta_pd_p = N_p / T_prefill(l_short)."""
    return n_p / prefill_s


def pd_decode_throughput(n_d: float, batch: float, step_s: float, output_tokens: float) -> float:
    """(5) Theta_pd_d = N_d BS_max / (T_decode L_out)."""
    return n_d * batch / (step_s * output_tokens)
