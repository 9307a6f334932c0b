"""What a hand-off over the line costs a request."""
