"""How far the simulator is from real engines that `prfaas profile` has measured."""
