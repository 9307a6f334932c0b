"""Driver in real time: HTTP, engine clients, KV events, metrics."""
