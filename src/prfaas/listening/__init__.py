"""What everything that listens needs: where connections come from, and who goes where too many
come."""
