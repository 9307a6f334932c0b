"""Local processes of a deployment: start, watch, restart, stop."""
