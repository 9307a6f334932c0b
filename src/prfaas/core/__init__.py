"""The vocabulary every other package speaks: units, errors, layouts, deployments. Pure."""
