"""Pure decisions: (snapshot, settings, now) -> decision with its reason. No clock, no chance, no input or output."""
