"""How a KV link's door holds while strangers knock thousands of times a second, far away."""
