"""The simulator: policy, control and agent as shipped, on fake ports with real costs, in virtual time, with faults."""
