"""A sandbox that may reach Bastide has a key of its own: of its project, on its maker's account, gone with it."""

from __future__ import annotations

from collections.abc import Callable

from house import House, until

from bastide import Sandbox
from bastide.domain.errors import Unauthenticated
from bastide.sdk import Client

CALL = """python3 - <<'PY'
import json, os, urllib.request, urllib.error
def status(path, body=None):
    asked = urllib.request.Request(os.environ["BASTIDE_URL"] + path, body, {"Authorization": "Bearer " + os.environ["BASTIDE_API_KEY"]})
    try: return urllib.request.urlopen(asked).status
    except urllib.error.HTTPError as error: return error.code
print(json.dumps([status("/v1/models"), status("/api/v1/services"), status("/api/v1/sandboxes"), os.environ["OPENAI_API_KEY"] == os.environ["BASTIDE_API_KEY"]]))
PY"""


def test_it_calls_models_and_nothing_else(make: Callable[..., Sandbox], tier: str) -> None:
    one = make(tier=tier, egress=["bastide"])
    said = one.exec(CALL)
    assert said.stdout.strip() == "[200, 403, 403, true]", said


def test_its_key_goes_with_it(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    one = make(tier=tier, egress=["bastide"])
    key = one.exec("printenv BASTIDE_API_KEY").stdout.strip()
    theirs = Client(town.url, key)
    theirs.transport.ask("GET", "/v1/models")
    one.kill()
    until(lambda: _refused(theirs))


def test_it_goes_with_its_makers(make: Callable[..., Sandbox], tier: str, town: House) -> None:
    made = town.client.create_key(name="maker", can_use_sandboxes=True)
    maker = Client(town.url, made["key"])
    until(lambda: not _refused(maker))
    one = Sandbox.create(tier=tier, egress=["bastide"], client=maker)
    theirs = Client(town.url, one.exec("printenv BASTIDE_API_KEY").stdout.strip())
    theirs.transport.ask("GET", "/v1/models")
    town.client.revoke_key(made["id"])
    until(lambda: _refused(theirs))


def test_none_where_nothing_leads_there_or_one_was_given(make: Callable[..., Sandbox], tier: str) -> None:
    assert make(tier=tier).exec("printenv BASTIDE_API_KEY").exit_code == 1
    given = make(tier=tier, egress=["bastide"], env={"OPENAI_API_KEY": "mine"})
    assert given.exec("printenv OPENAI_API_KEY; printenv BASTIDE_API_KEY").stdout == "mine\n"


def _refused(client: Client) -> bool:
    try:
        client.transport.ask("GET", "/v1/models")
    except Unauthenticated:
        return True
    return False
