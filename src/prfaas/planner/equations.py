"""Equations (1) to (8) of "Prefill-as-a-Service" (arXiv 2604.15039, section 3.4), by number.

The paper's symbols, here and nowhere else (docs/planner.md has the glossary): t routing threshold,
p = P(L > t) offloaded share, N instances, Theta throughput in requests per second, Phi_kv KV
throughput, L uncached prompt length. Sizes are bytes, rates bytes per second, times seconds.
"""

from __future__ import annotations

from math import inf


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


def lambda_max(p: float, theta_prfaas: float, theta_pd_p: float, theta_pd_d: float) -> float:
    """(6) Lambda_max = min(Theta_prfaas / p, Theta_pd_p / (1 - p), Theta_pd_d)."""
    return min(
        theta_prfaas / p if p > 0 else inf, theta_pd_p / (1 - p) if p < 1 else inf, theta_pd_d
    )


def prefill_imbalance(p: float, theta_prfaas: float, theta_pd_p: float) -> float:
    """(7) Theta_prfaas / p - Theta_pd_p / (1 - p): zero at the optimal threshold.

    Negative: the PrfaaS side binds, so t should rise. ``p`` strictly between 0 and 1.
    """
    return theta_prfaas / p - theta_pd_p / (1 - p)


def stage_imbalance(theta_prfaas: float, theta_pd_p: float, theta_pd_d: float) -> float:
    """(8) Theta_prfaas + Theta_pd_p - Theta_pd_d: zero at the optimal N_p / N_d.

    Negative: prefill-bound, so a decode node should turn to prefill; positive: decode-bound.
    """
    return theta_prfaas + theta_pd_p - theta_pd_d
