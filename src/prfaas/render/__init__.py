"""A deployment file as the files of those who run it: Kubernetes manifests, systemd units. Pure."""
