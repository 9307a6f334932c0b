"""What it costs that an agent carries a gateway's connections to engines."""
