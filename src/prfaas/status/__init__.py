"""What a running deployment does now, asked over HTTP: the gateway, agents and engines.

Theory of operation. `collect` asks every process once, all at the same time, each with a limit of
its own, and makes one `Snapshot` of what answered; a process that does not answer is a line in it,
not an error. `view` draws a snapshot. Rates come from the processes themselves, so one snapshot is
enough and a second one adds nothing but a later moment.
"""
