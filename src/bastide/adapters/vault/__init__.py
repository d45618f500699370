"""Sealing secrets."""
