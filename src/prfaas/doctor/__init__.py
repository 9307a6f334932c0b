"""Looks at a machine for what would go wrong with a deployment, and says what to do about it.

Theory of operation. A check looks at one thing and yields `Finding`s; it never raises, for what
cannot be looked at is a finding too. `software` and `machine` need no deployment file;
`certificates` and `network` look at what the file names. `examine` runs them all.
"""
