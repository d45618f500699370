"""What ships inside the package, so that everything works with no network.

Owns the built-in models. Must never import the rest of Bastide, and nothing outside the standard library at import.
"""
