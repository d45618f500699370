"""Signed addresses of ports inside sandboxes: who has one may use it until it expires; nobody can make one up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from bastide.domain.errors import Forbidden
from bastide.ports.clock import Clock

TOKEN_S_MAX = 7 * 24 * 3600.0


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
        """(token, when it expires)."""
        expires_s = self._clock.now_s() + lasts_s
        said = _text(json.dumps([sandbox, port, int(expires_s)], separators=(",", ":")).encode())
        return f"{said}.{self._seal(said)}", expires_s

    def open(self, token: str) -> tuple[str, int]:
        """(sandbox, port). Raises Forbidden where it was not made here, or has expired."""
        said, _, seal = token.partition(".")
        if not seal or not hmac.compare_digest(seal, self._seal(said)):
            raise Forbidden("this address was not made here")
        sandbox, port, expires_s = json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        if self._clock.now_s() >= expires_s:
            raise Forbidden("this address has expired; ask for a new one")
        return str(sandbox), int(port)

    def _seal(self, said: str) -> str:
        return _text(hmac.digest(self._key, said.encode(), hashlib.sha256)[:18])


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
