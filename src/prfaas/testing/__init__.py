"""Shipped test kit: manual clock, in-memory link, WAN emulator, fault injection."""
