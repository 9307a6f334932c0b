"""Between an engine and its agent: shared memory for bytes, a Unix socket for words."""
