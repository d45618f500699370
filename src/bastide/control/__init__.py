"""Observe, plan, check, apply; and the control API."""
