"""One decision per file: routing, placement, threshold, rebalancing. Pure."""
