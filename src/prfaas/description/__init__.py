"""One description of a deployment for the running system, the planner and the simulator.

The file is the deployment's; beside what there is (`prfaas.core.deployment`) stand what is asked of
it (`workload`), what counts as served well (`objectives`), what it costs (`prices`) and what the
simulator tries (`experiments`). docs/deployment.md documents the keys.
"""
