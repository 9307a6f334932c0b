"""Every policy on every workload, at loads in units of the planner's fluid bound."""
