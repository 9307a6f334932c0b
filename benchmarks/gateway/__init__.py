"""What the gateway costs a request."""
