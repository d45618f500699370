"""What may leave a box, as a table: no resolver, no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.domain.errors import InvalidRequest
from bastide.policy.egress import NEVER, judge, literal, parse

SETS = {"tools": ("files.tools.example", "*.cdn.tools.example:8443")}
PUBLIC, PRIVATE = "93.184.216.34", "10.20.30.40"


@pytest.mark.parametrize(
    ("rules", "host", "port", "resolved", "allowed"),
    [
        ([], "a.example", 443, (PUBLIC,), False),
        (["a.example"], "a.example", 443, (PUBLIC,), True),
        (["a.example"], "A.Example.", 80, (PUBLIC,), True),
        (["a.example"], "a.example", 22, (PUBLIC,), False),
        (["a.example:22"], "a.example", 22, (PUBLIC,), True),
        (["a.example:22"], "a.example", 443, (PUBLIC,), False),
        (["a.example"], "b.a.example", 443, (PUBLIC,), False),
        (["*.a.example"], "b.a.example", 443, (PUBLIC,), True),
        (["*.a.example"], "a.example", 443, (PUBLIC,), False),
        (["*.a.example"], "evila.example", 443, (PUBLIC,), False),
        (["a.example"], "a.example", 443, (PRIVATE,), False),  # rebinding
        (["a.example", "10.20.0.0/16"], "a.example", 443, (PRIVATE,), True),
        (["a.example", "10.20.0.0/16:5432"], "a.example", 443, (PRIVATE,), False),
        (["a.example"], "a.example", 443, ("127.0.0.1",), False),
        (["a.example"], "a.example", 443, ("169.254.169.254",), False),
        (["a.example"], "a.example", 443, ("::ffff:127.0.0.1",), False),
        (["a.example"], "a.example", 443, ("64:ff9b::7f00:1",), False),
        (["a.example"], "a.example", 443, (), False),
        (["10.0.0.0/8"], PRIVATE, 5432, (), True),
        (["10.20.30.40:5432"], PRIVATE, 5432, (), True),
        (["10.20.30.40:5432"], PRIVATE, 5433, (), False),
        (["10.0.0.0/8"], PUBLIC, 443, (), False),
        (["0.0.0.0/0"], PUBLIC, 443, (), True),
        (["0.0.0.0/0"], "127.0.0.1", 443, (), False),
        (["0.0.0.0/0"], "169.254.169.254", 80, (), False),
        (["::/0"], "::1", 80, (), False),
        (["::/0"], "::ffff:169.254.169.254", 80, (), False),
        (["fd00:1::/32"], "fd00:1::5", 80, (), True),
        (["[fd00:1::/32]:80"], "[fd00:1::5]", 81, (), False),
        (["tools"], "files.tools.example", 443, (PUBLIC,), True),
        (["tools"], "x.cdn.tools.example", 8443, (PUBLIC,), True),
        (["bastide"], "a.example", 80, (PUBLIC,), False),
    ],
)
def test_table(rules: list[str], host: str, port: int, resolved: tuple[str, ...], allowed: bool) -> None:
    verdict = judge(parse(tuple(rules), SETS), host, port, resolved)
    assert verdict.allowed == allowed, verdict
    assert verdict.reason


def test_only_the_good_addresses_of_a_name_are_given() -> None:
    verdict = judge(parse(("a.example",), {}), "a.example", 443, ("127.0.0.1", PUBLIC, PRIVATE))
    assert verdict.addresses == (PUBLIC,)


@pytest.mark.parametrize(
    "entry",
    ["127.0.0.1", "127.0.0.0/8", "169.254.169.254/32", "::1", "fe80::1", "localhost", "x.localhost", "no set", "pypi",
     "a..b", "-a.example", "a.example:0", "a.example:70000", "a.example:x", "http://a.example", "a.example/x", "1.2.3",
     "*.", "*", "a.*.example", "256.1.1.1"],
)  # fmt: skip
def test_entries_that_are_refused(entry: str) -> None:
    with pytest.raises(InvalidRequest):
        parse((entry,), {})


@given(st.ip_addresses())
def test_no_rule_ever_opens_what_is_never_open(address: object) -> None:
    plain = literal(str(address))
    assert plain is not None
    if any(plain.version == never.version and plain in never for never in NEVER):
        assert not judge(parse(("0.0.0.0/0", "::/0"), {}), str(address), 443, ()).allowed


@given(st.text(max_size=60), st.integers(1, 65535))
def test_no_text_is_reached_without_a_rule(host: str, port: int) -> None:
    assert not judge((), host, port, (PUBLIC,)).allowed
