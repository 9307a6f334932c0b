"""The global KV manager: which engine holds which prefix. Pure."""
