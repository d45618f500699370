"""The control API: thin handlers. Parse, authorise, write desired state, hint."""
