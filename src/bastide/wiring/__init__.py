"""Settings, the one place where adapters are chosen, and the entry points."""
