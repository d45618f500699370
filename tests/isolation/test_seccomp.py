"""The system-call filter, run by a small machine of the test's own: what a kernel would answer, for both architectures."""

from __future__ import annotations

import struct

import pytest

from bastide.adapters.isolation import seccomp

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Classic BPF as seccomp runs it: load words of the call's description, jump, return."""
    data = struct.pack("<iIQ", number, architecture or ARCHITECTURES[machine], 0)
    data += b"".join(struct.pack("<Q", argument) for argument in (*arguments, *[0] * (6 - len(arguments))))
    program = [
        struct.unpack_from("<HBBI", seccomp.program(machine), at) for at in range(0, len(seccomp.program(machine)), 8)
    ]
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = program[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += if_true if holds else if_false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_filter(machine: str, column: int) -> None:
    for name, numbers in seccomp.REFUSED.items():
        if numbers[column] is not None:
            assert answer(machine, numbers[column]) == EPERM, name
    clone, clone3 = ((56, 220)[column], 435)
    assert answer(machine, clone3) == ENOSYS
    assert answer(machine, clone, 0x11) == ALLOW  # a fork
    assert answer(machine, clone, 0x3D0F00) == ALLOW  # a thread
    for flag in (0x10000000, 0x20000000, 0x00020000, 0x40000000, 0x02000000, 0x04000000, 0x08000000):
        assert answer(machine, clone, 0x11 | flag) == EPERM
    socket = (41, 198)[column]
    assert [answer(machine, socket, family) for family in (1, 2, 10, 16)] == [ALLOW] * 4
    assert {answer(machine, socket, family) for family in (0, 3, 17, 38, 40)} == {EAFNOSUPPORT}
    ioctl = (16, 29)[column]
    assert answer(machine, ioctl, 0, 0x5412) == answer(machine, ioctl, 0, 0x541C) == EPERM
    assert answer(machine, ioctl, 0, 0x5401) == ALLOW
    personality = (135, 92)[column]
    assert answer(machine, personality, 0xFFFFFFFF) == ALLOW
    assert answer(machine, personality, 0x0040000) == EPERM
    for harmless in ((0, 1, 3, 9, 59, 202, 231), (56, 57, 63, 64, 93, 221, 222))[column]:
        assert answer(machine, harmless) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_it_does_not_know_is_not_there(machine: str) -> None:
    assert answer(machine, seccomp.UNKNOWN_FROM) == ENOSYS
    assert answer(machine, 5000) == ENOSYS
    assert answer(machine, 0x40000000 | 1) == ENOSYS  # x86-64's second table
    assert answer(machine, 1, architecture=0x40000003) == KILL  # 32-bit calls


def test_it_fits_a_kernel() -> None:
    assert all(len(seccomp.program(machine)) // 8 <= 4096 for machine in ("x86_64", "aarch64"))
    with pytest.raises(KeyError):
        seccomp.program("riscv64")
