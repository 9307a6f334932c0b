"""The throughput model, the search for t and N_p/N_d, multi-site optimum, cost. Pure."""
