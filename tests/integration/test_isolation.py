"""What one project's key may learn of another project, and what a wish that nobody understands does."""

from __future__ import annotations

import pytest
from house import CHAT, House, until

from bastide.domain.errors import InvalidRequest, Unauthenticated
from bastide.sdk import Client


def _metrics(house: House, key: str) -> str:
    return "\n".join(Client(house.url, key).transport.text("GET", "/metrics"))


def _known(house: House, key: str) -> bool:
    try:
        return bool(_metrics(house, key))
    except Unauthenticated:
        return False  # the gateway reads of a new key a moment later


def test_metrics_name_other_projects_to_an_admin_alone(shared: House) -> None:
    shared.client.create_project("beta")
    beta = Client(shared.url, shared.key, project="beta").create_key(name="only theirs")["key"]
    ours = shared.client.create_key(name="ours")["key"]
    until(lambda: _known(shared, beta) and _known(shared, ours))
    labels = 'project="default",service="chat"'
    assert labels in _metrics(shared, shared.key) and labels in _metrics(shared, ours)
    assert "chat" not in _metrics(shared, beta) and "bastide_device_budget_bytes" not in _metrics(shared, beta)


def test_a_field_nobody_knows_is_refused(shared: House) -> None:
    """A misspelt limit must not make a key without one."""
    with pytest.raises(InvalidRequest, match="budgets"):
        shared.client.create_key(name="misspelt", budgets="1.00")
    with pytest.raises(InvalidRequest, match="project"):
        shared.client.create_key(name="the project is no part of the body", project="beta")
    assert shared.deploy(CHAT)["chat"]["phase"] == "ready"
