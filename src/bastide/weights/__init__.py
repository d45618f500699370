"""Weights on this node: what a file is, where it came from, where it is kept."""
