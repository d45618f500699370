"""What the decisions need from the world, as Protocols. Each has one contract suite in tests/contract, run on every adapter."""
