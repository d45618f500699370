"""Usage: journals folded into the store, exactly once; reservations of dead workers settled; budgets sliced."""
