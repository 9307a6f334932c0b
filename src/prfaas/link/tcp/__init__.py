"""The KV link's sockets: connections, TLS, TCP_INFO, threads."""
