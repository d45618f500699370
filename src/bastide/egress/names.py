"""Just enough of DNS to answer the programs inside a wall: one question, addresses of version 4. Pure.

Source: RFC 1035 sections 4.1 and 3.2.2.
"""

from __future__ import annotations

import ipaddress
import struct

A, AAAA = 1, 28
NO_ERROR, FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = 0, 1, 3, 4, 5
QUESTION_BYTES_MAX = 512


def question(packet: bytes) -> tuple[str, int]:
    """(name in lower case, kind). Raises ValueError where it is no single question."""
    if not 12 < len(packet) <= QUESTION_BYTES_MAX:
        raise ValueError("no question")
    flags, count = struct.unpack_from(">HH", packet, 2)
    if flags & 0xF800 or count != 1:
        raise ValueError("not one plain question")
    labels, at = [], 12
    while True:
        length = packet[at] if at < len(packet) else 64
        if length == 0:
            break
        if length > 63 or at + 1 + length > len(packet):
            raise ValueError("a name that is none")
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    if at + 5 > len(packet):
        raise ValueError("a question that is cut off")
    kind, group = struct.unpack_from(">HH", packet, at + 1)
    if group != 1:
        raise ValueError("not of the internet")
    return ".".join(labels).lower(), kind


def answer(packet: bytes, code: int, addresses: tuple[str, ...] = (), lives_s: int = 0) -> bytes:
    """What to say to `packet`: `code`, and addresses that may be kept for `lives_s` seconds."""
    end = packet.find(b"\0", 12) + 5 if len(packet) > 12 else 12
    asked = packet[12:end] if end > 16 else b""
    recursion = packet[2] & 1 if len(packet) > 2 else 0
    head = packet[:2] + struct.pack(">BBHHHH", 0x80 | recursion, 0x80 | code, 1 if asked else 0, len(addresses), 0, 0)
    records = b"".join(
        struct.pack(">HHHIH", 0xC00C, A, 1, lives_s, 4) + ipaddress.IPv4Address(address).packed for address in addresses
    )
    return head + asked + records
