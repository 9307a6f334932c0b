"""What every process of a deployment does alike: logging, signals, an HTTP server."""
