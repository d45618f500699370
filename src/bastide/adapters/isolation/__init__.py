"""Tiers of isolation: one adapter each for ports.isolation, and what they share."""
