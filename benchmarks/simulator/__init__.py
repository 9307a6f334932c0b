"""Speed and correctness of the simulator: ``python -m benchmarks.simulator``."""
