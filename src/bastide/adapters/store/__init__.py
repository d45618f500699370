"""Stores: in memory, and SQLite. One contract suite, tests/contract/test_store.py."""
