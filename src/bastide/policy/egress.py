"""What may leave a box: rules read, and connections judged. Pure: who asks has resolved the name; it never resolves again.

Deny by default. A name means the addresses that our resolver just answered for it; a private address needs a CIDR that
says so, a name that leads to one is refused (rebinding); some addresses are refused whatever a rule says.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bastide.domain.errors import InvalidRequest

RULES_MAX = 200
WEB_PORTS = frozenset({80, 443})
BASTIDE = "bastide"  # the rule that lets a box reach Bastide's own API, at this name
BASTIDE_NAME = "bastide.internal"
_NAME = re.compile(r"^(\*\.)?(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "fe80::/10",
        "ff00::/8", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32",
    )
)  # fmt: skip  # loopback, link-local with clouds' metadata, multicast, reserved
NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "fc00::/7", "2001:db8::/32", "64:ff9b::/96",
        "64:ff9b:1::/48", "2002::/16", "2001::/32",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """A name (`*.` before it: everything below it), or a network; with ports (None: those a name or network means)."""

    text: str
    name: str = ""
    network: Network | None = None
    ports: frozenset[int] | None = None

    def names(self, name: str) -> bool:
        if self.name.startswith("*."):
            return name.endswith(self.name[1:]) and name != self.name[2:]
        return bool(self.name) and name == self.name

    def has_port(self, port: int) -> bool:
        if self.ports is not None:
            return port in self.ports
        return port in WEB_PORTS if self.name else True


@dataclass(frozen=True, slots=True)
class Verdict:
    """`addresses`: those that may be connected to; empty: none, for `reason`."""

    addresses: tuple[str, ...]
    reason: str

    @property
    def allowed(self) -> bool:
        return bool(self.addresses)


def parse(entries: tuple[str, ...], sets: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """Rules of entries as a user writes them; `sets`: names that stand for several entries. Raises InvalidRequest."""
    if len(entries) > RULES_MAX:
        raise InvalidRequest(f"egress has more than {RULES_MAX} entries", param="egress")
    rules: list[Rule] = []
    for entry in entries:
        text = entry.strip().lower()
        if text == BASTIDE:
            rules.append(Rule(text, name=BASTIDE_NAME, ports=frozenset({80})))
        elif text in sets:
            rules.extend(_one(member) for member in sets[text])
        elif re.fullmatch(r"[a-z][a-z0-9]*", text):
            known = ", ".join(sorted((*sets, BASTIDE)))
            raise InvalidRequest(
                f"egress {entry!r} is neither a name with a dot, a network nor a set known here ({known})",
                param="egress",
            )
        else:
            rules.append(_one(text))
    return tuple(rules)


def _one(text: str) -> Rule:
    """`NAME[:PORT]`, `NETWORK[:PORT]`, `[NETWORK6]:PORT`."""
    host, port = text, ""
    bracketed = re.fullmatch(r"\[([0-9a-f:./]+)\](?::(\d+))?", text)
    if bracketed:
        host, port = bracketed.group(1), bracketed.group(2) or ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    ports = None
    if port:
        if not port.isdigit() or not 1 <= int(port) <= 65535:
            raise InvalidRequest(f"egress {text!r}: {port!r} is no port", param="egress")
        ports = frozenset({int(port)})
    try:
        network: Network | None = ipaddress.ip_network(host, strict=False)
    except ValueError:
        network = None
    if network is not None:
        for never in NEVER:
            if network.version == never.version and network.subnet_of(never):  # type: ignore[arg-type]
                raise InvalidRequest(
                    f"egress {text!r} is never allowed: {never} holds the host's own, link-local or metadata addresses",
                    param="egress",
                )
        return Rule(text, network=network, ports=ports)
    if host == "localhost" or host.endswith(".localhost"):
        raise InvalidRequest(f"egress {text!r} is never allowed: that is the host itself", param="egress")
    name = host.rstrip(".")
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _NAME.match(name) or re.fullmatch(r"[0-9.]+", name):
        raise InvalidRequest(f"egress {text!r} is neither a name nor a network", param="egress")
    return Rule(text, name=name, ports=ports)


def literal(host: str) -> Address | None:
    """The address that a host is, where it is one in any usual spelling."""
    try:
        return _plain(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        return None


def named(rules: tuple[Rule, ...], name: str, port: int) -> bool:
    """Whether any rule allows this name at this port: only then is it resolved at all."""
    return any(rule.names(name) and rule.has_port(port) for rule in rules)


def judge(rules: tuple[Rule, ...], host: str, port: int, resolved: tuple[str, ...]) -> Verdict:
    """May a connection to `host` go to any of `resolved` (for an address: itself)?"""
    name = host.lower().rstrip(".")
    own = literal(host)
    if own is not None:
        return _addresses(rules, (str(own),), port, by_name=False, shown=host)
    if not named(rules, name, port):
        allowed_otherwise = any(rule.names(name) for rule in rules)
        why = f"its port {port} is not allowed" if allowed_otherwise else "the name is not allowed"
        return Verdict((), f"{name}:{port}: {why}")
    return _addresses(rules, resolved, port, by_name=True, shown=name)


def _addresses(rules: tuple[Rule, ...], resolved: tuple[str, ...], port: int, *, by_name: bool, shown: str) -> Verdict:
    good, reason = [], f"{shown} has no address"
    for text in resolved:
        address = literal(text)
        if address is None:
            continue
        never = next((n for n in NEVER if n.version == address.version and address in n), None)
        if never is not None:
            reason = (
                f"{shown} leads to {address}, in {never}: the host's own, link-local and metadata addresses never are"
            )
            continue
        in_rule = any(
            rule.network is not None
            and rule.network.version == address.version
            and address in rule.network
            and rule.has_port(port)
            for rule in rules
        )
        private = next((n for n in NOT_PUBLIC if n.version == address.version and address in n), None)
        if in_rule or (by_name and private is None):
            good.append(str(address))
        elif by_name:
            reason = f"{shown} leads to {address}, in the private {private}; allow that network by CIDR if it is meant"
        else:
            reason = f"{shown}:{port}: addresses are allowed by CIDR only, and no rule has this one"
    return Verdict(tuple(good), "allowed" if good else reason)


def _plain(address: Address) -> Address:
    """An IPv4 address that hides in IPv6 is judged as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        value = int(address)
        if value >> 32 == int(ipaddress.ip_address("64:ff9b::")) >> 32 or (value >> 32 == 0 and value > 1):
            return ipaddress.IPv4Address(value & 0xFFFFFFFF)
    return address
