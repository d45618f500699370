"""The system-call filter of the namespace tier: classic BPF, made here from one table, for x86-64 and arm64.

What changes the machine, other namespaces or the kernel itself is refused; what this table does not know yet is answered
as if the kernel did not have it, so that a new kernel never opens a new door. Pure: it makes bytes and touches nothing.

Sources: linux/seccomp.h, linux/filter.h, the kernel's system-call tables up to 6.x (numbers are for ever).
"""

from __future__ import annotations

import struct

# name: (number on x86-64, number on arm64)
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # mounts, roots and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "sethostname": (170, 161), "setdomainname": (171, 162),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # the kernel and its big interfaces
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "memfd_secret": (447, 447),
    "lookup_dcookie": (212, 18), "syslog": (103, 116), "nfsservctl": (180, 42), "uselib": (134, None),
    "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None), "modify_ldt": (154, None),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "iopl": (172, None), "ioperm": (173, None),
    "vhangup": (153, 58),
}  # fmt: skip
UNKNOWN_FROM = 463  # numbers from here on are newer than this table (mseal, 462, is the last it knows)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKET, _IOCTL, _PERSONALITY = (41, 198), (16, 29), (135, 92)
NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW… flag of clone
FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink
TERMINAL_INJECTIONS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
PERSONALITIES = (0, 8, 0xFFFFFFFF)

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000
_EPERM, _EACCES, _ENOSYS, _EAFNOSUPPORT = 1, 13, 38, 97
_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4


def _argument_at(index: int) -> int:
    """Where the low half of an argument lies (both architectures are little-endian)."""
    return 16 + 8 * index


def program(machine: str) -> bytes:
    """The filter for `machine` (as platform.machine() says). KeyError where there is none for it."""
    architecture, column = _ARCHITECTURES[machine]
    code: list[tuple[int, int, int, int]] = []  # operation, jump if true, jump if false, value

    def refuse(error: int) -> None:
        code.append((_RETURN, 0, 0, _ERROR | error))

    code += [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, _NUMBER_AT))
    # Also catches x86-64's second table, whose numbers all have a high bit.
    code.append((_AT_LEAST, 0, 1, min(UNKNOWN_FROM, _X32)))
    refuse(_ENOSYS)
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            code.append((_EQUAL, 0, 1, number))
            refuse(_EPERM)
    # clone3 hides its flags in memory; told that it is missing, the C library uses clone.
    code.append((_EQUAL, 0, 1, _CLONE3[column]))
    refuse(_ENOSYS)
    code += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _argument_at(0)), (_ANY_BIT, 0, 1, NEW_NAMESPACES)]
    refuse(_EPERM)
    code.append((_RETURN, 0, 0, _ALLOW))
    _by_argument(code, _SOCKET[column], 0, FAMILIES, _ALLOW, _ERROR | _EAFNOSUPPORT)
    _by_argument(code, _PERSONALITY[column], 0, PERSONALITIES, _ALLOW, _ERROR | _EPERM)
    _by_argument(code, _IOCTL[column], 1, TERMINAL_INJECTIONS, _ERROR | _EPERM, _ALLOW)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _by_argument(
    code: list[tuple[int, int, int, int]],
    number: int,
    argument: int,
    values: tuple[int, ...],
    matched: int,
    otherwise: int,
) -> None:
    """How this call is answered where its argument is one of `values`, and where it is not.

    The accumulator holds the call's number before, and after where it is another call.
    """
    code.append((_EQUAL, 0, len(values) + 3, number))
    code.append((_LOAD, 0, 0, _argument_at(argument)))
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        code.append((_EQUAL, left, 0, value))
    code.append((_RETURN, 0, 0, otherwise))
    code.append((_RETURN, 0, 0, matched))
