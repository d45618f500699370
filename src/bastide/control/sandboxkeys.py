"""Keys of sandboxes that may reach Bastide: one each, of the project, for models alone, known here by its hash.

What is asked with one counts as asked by who made the sandbox: on the same limits, the same budget, in the same line of the
ledger. So making sandboxes never gives more than one has. It goes with its sandbox, and with its maker's key.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bastide.domain.errors import Forbidden
from bastide.domain.keys import KEY_PREFIX, KeyGrant, hash_key
from bastide.domain.sandboxes import TIMEOUT_S_MAX

if TYPE_CHECKING:
    from bastide.control.state import Control

KEY_ID_PREFIX = "sbx-"


async def made(control: Control, body: dict[str, Any]) -> dict[str, Any]:
    """For one sandbox of one maker. Raises Forbidden where the maker's key is no longer good."""
    maker = next((grant for grant in control.keys.values() if grant.key_id == str(body["maker"])), None)
    if maker is None or maker.refuses(control.now_s()) is not None:
        raise Forbidden("the key that made this sandbox is no longer good, so it gets none")
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    grant = KeyGrant(
        KEY_ID_PREFIX + str(body["sandbox"]), hash_key(text), str(body["project"]), name=f"of the sandbox {body['sandbox']}",
        models=maker.models, limits=maker.limits, created_at_s=control.now_s(), account=maker.billed_to,
        expires_at_s=control.now_s() + TIMEOUT_S_MAX,
    )  # fmt: skip
    _drop(control, lambda key: key.key_id == grant.key_id)
    control.store.put_key(grant)
    control.keys[grant.key_hash] = grant
    control.routes_changed()
    await control.table_given()
    return {"key": text}


def dropped(control: Control, body: dict[str, Any]) -> dict[str, Any]:
    """Its sandbox has ended; or, with `kept`, every sandbox but these has."""
    if "kept" in body:
        kept = {KEY_ID_PREFIX + str(name) for name in body["kept"]}
        _drop(control, lambda key: key.key_id.startswith(KEY_ID_PREFIX) and key.key_id not in kept)
    else:
        _drop(control, lambda key: key.key_id == KEY_ID_PREFIX + str(body["sandbox"]))
    return {}


def drop_of_maker(control: Control, key_id: str) -> None:
    """The maker's key was revoked."""
    _drop(control, lambda key: key.account == key_id)


def _drop(control: Control, which: Any) -> None:
    for key_hash, grant in list(control.keys.items()):
        if grant.revoked_at_s is None and which(grant):
            del control.keys[key_hash]
            control.store.put_key(replace(grant, revoked_at_s=control.now_s()))
            control.routes_changed()
