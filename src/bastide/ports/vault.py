"""Sealing of secrets, with a key that lies outside the database."""

from __future__ import annotations

from typing import Protocol


class Vault(Protocol):
    def seal(self, text: str, context: str) -> bytes:
        """Encrypt. `context` (project and name) is bound in, so that a sealed secret can't be moved to another name."""
        ...

    def open(self, sealed: bytes, context: str) -> str:
        """Decrypt. Raises InternalError where it was sealed with another key or for another context."""
        ...
