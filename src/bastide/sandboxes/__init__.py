"""Sandboxes on one node: made on request, kept warm, put to rest, saved, ended."""
