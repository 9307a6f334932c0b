"""What is asked: length distributions and production traces. Pure."""
