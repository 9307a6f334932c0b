"""An engine's cache events: read from vLLM where they are made, told without tokens elsewhere."""
