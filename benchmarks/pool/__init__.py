"""What the agents' caches save, and what their books cost."""
