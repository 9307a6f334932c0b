"""Every benchmark in its short form, beside its peers: one file of results, one page."""
