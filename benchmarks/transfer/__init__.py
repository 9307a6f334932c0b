"""The KV link side by side with iperf3, NIXL and Mooncake."""
