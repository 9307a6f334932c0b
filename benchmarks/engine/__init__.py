"""What the connector costs a prefill engine."""
