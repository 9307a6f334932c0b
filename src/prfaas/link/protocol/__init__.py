"""Frames, sender, receiver and pacing of the KV link as sans-I/O state machines. Pure."""
