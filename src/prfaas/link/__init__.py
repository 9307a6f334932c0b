"""The KV link between agents: the seam, the sans-I/O protocol, its TCP and TLS shell."""
