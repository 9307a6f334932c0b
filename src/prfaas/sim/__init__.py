"""Driver in simulated time: engines, links, workloads, traces, report."""
