"""Signed addresses of ports inside sandboxes: who has one may use it until it expires; nobody can make one up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import struct
from pathlib import Path

from bastide.domain.errors import Forbidden
from bastide.ports.clock import Clock

TOKEN_S_MAX = 7 * 24 * 3600.0
IDENTITY_PREFIX = "sb-"
SAID = struct.Struct(">QHI")  # the sandbox, the port, when it expires
SEAL_BYTES = 18


class Tokens:
    """`file`: the signing key; made at first use, mode 0600."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self._clock = clock
        if not file.exists():
            part = file.with_suffix(".part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(descriptor, secrets.token_bytes(32))
            os.fsync(descriptor)
            os.close(descriptor)
            os.replace(part, file)
        self._key = file.read_bytes()

    def sign(self, sandbox: str, port: int, lasts_s: float) -> tuple[str, float]:
        """(token, when it expires). A token is one label of a host name: small letters and digits, 52 of them."""
        expires_s = self._clock.now_s() + lasts_s
        said = SAID.pack(int(sandbox.removeprefix(IDENTITY_PREFIX), 16), port, int(expires_s))
        return _text(said + self._seal(said)), expires_s

    def open(self, token: str) -> tuple[str, int]:
        """(sandbox, port). Raises Forbidden where it was not made here, or has expired."""
        try:
            data = base64.b32decode(token.upper() + "=" * (-len(token) % 8))
        except ValueError:
            data = b""
        said, seal = data[: SAID.size], data[SAID.size :]
        if (
            len(data) != SAID.size + SEAL_BYTES
            or _text(data) != token
            or not hmac.compare_digest(seal, self._seal(said))
        ):
            raise Forbidden("this address was not made here")
        number, port, expires_s = SAID.unpack(said)
        if self._clock.now_s() >= expires_s:
            raise Forbidden("this address has expired; ask for a new one")
        return f"{IDENTITY_PREFIX}{number:016x}", port

    def _seal(self, said: bytes) -> bytes:
        return hmac.digest(self._key, said, hashlib.sha256)[:SEAL_BYTES]


def _text(data: bytes) -> str:
    return base64.b32encode(data).rstrip(b"=").decode().lower()
