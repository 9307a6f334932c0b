"""What the connector does and costs on GPUs."""
