"""What a model costs: its KV geometry, its KV sizes, how fast an instance runs it. Pure."""
