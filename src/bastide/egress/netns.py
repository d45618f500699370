"""A network namespace with no way out, and sockets of ours in it. A program of its own, run by path as root; standard library only.

    python netns.py CHANNEL_FD PORT,PORT... [NAMESPACE_FD]

Makes a namespace (or enters one), in which every address is local, so that a connection to any address at one of the
ports reaches a socket of ours, which then knows where it was meant to go. Sends over the channel: the namespace, a UDP
socket for names, and one listening socket for each port. There is no route out of it that could be forgotten.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
RTM_NEWROUTE, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 24, 1, 4, 0x400
RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, RTA_OIF = 255, 4, 254, 2, 4
LOOPBACK = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def every_address_is_local(family: int) -> None:
    """`ip route add local 0.0.0.0/0 dev lo`, as netlink says it (rtnetlink(7))."""
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0)
    interface = struct.pack("=HHi", 8, RTA_OIF, LOOPBACK)
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    message = struct.pack("=IHHII", 16 + len(route) + len(interface), RTM_NEWROUTE, flags, 1, 0) + route + interface
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as line:
        line.send(message)
        answer = line.recv(4096)
    error = struct.unpack_from("=i", answer, 16)[0]
    if error:
        raise OSError(-error, os.strerror(-error))


def loopback_up() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    ports = [int(word) for word in sys.argv[2].split(",") if word]
    fresh = len(sys.argv) < 4
    if fresh:
        if LIBC.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace can be made")
        loopback_up()
        every_address_is_local(socket.AF_INET)
    elif LIBC.setns(int(sys.argv[3]), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace can't be entered")
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    names.bind(("0.0.0.0", 53))
    sockets = [names]
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(128)
        sockets.append(listener)
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    numbers = array.array("i", [namespace, *(one.fileno() for one in sockets)])
    channel.sendmsg([b"ok"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])


if __name__ == "__main__":
    main()
