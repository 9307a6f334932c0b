"""The demo: a script of prompts, its client, its table."""
