"""The state machine that hosts the policies: handle(event, now) gives commands. Pure."""
