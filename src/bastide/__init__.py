"""Bastide: the whole AI cloud as one open Python package, for machines people own."""

__version__ = "0.1.0"
