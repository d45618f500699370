"""Secrets sealed with AES-256-GCM by a key in a file of its own, outside the database, mode 0600."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bastide.domain.errors import InternalError
from bastide.ports.vault import Vault

NONCE_BYTES = 12


class FileKeyVault(Vault):
    """`path`: the key's file; made at first use."""

    def __init__(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(AESGCM.generate_key(256))
                file.flush()
                os.fsync(file.fileno())
        with open(path, "rb") as file:
            self._cipher = AESGCM(file.read())

    def seal(self, text: str, context: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), context.encode())

    def open(self, sealed: bytes, context: str) -> str:
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode()).decode()
        except InvalidTag:
            raise InternalError(
                f"the secret {context!r} was sealed with another key; set it again, or restore secrets.key"
            ) from None
