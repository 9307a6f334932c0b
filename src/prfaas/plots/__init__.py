"""Pictures of plans and simulations."""
