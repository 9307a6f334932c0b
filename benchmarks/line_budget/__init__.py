"""How well the machines at one end of a line share its rate."""
