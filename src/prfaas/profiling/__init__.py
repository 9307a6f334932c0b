"""`prfaas profile`: how fast running engines are, as planner and simulator want to know it."""
