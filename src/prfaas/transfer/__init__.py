"""KV cache on the move: the sans-I/O protocol, its TCP/TLS shell, and the engine-agent socket."""
