"""The HTTP side of sandboxes: thin handlers that parse, ask the house and stream."""
