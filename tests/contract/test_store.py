"""The store's contract, on every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bastide.adapters.store.memory import MemoryStore
from bastide.adapters.store.sqlite import SqliteStore
from bastide.domain.decisions import Decision
from bastide.domain.errors import Conflict, NotFound, Unavailable
from bastide.domain.instances import RungFact
from bastide.domain.keys import BudgetWindow, KeyGrant, Limits
from bastide.domain.ledger import Account, EngineCount, InstanceTime, Outcome, Settlement, Tokens
from bastide.domain.spec import ModelSource, OutsideEndpoint, Price, Replicas, ServiceSpec
from bastide.ports.store import Store, UsageFilter

DAY_S = 86400.0


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(str(tmp_path / "store.db"))
    yield made
    made.close()


def spec(name: str = "chat", project: str = "default", **rest: object) -> ServiceSpec:
    return ServiceSpec(project, name, model=ModelSource("builtin://tiny"), **rest)  # type: ignore[arg-type]


def settled(event_id: str, at_s: float = 10.0, **rest: object) -> Settlement:
    fields: dict[str, object] = {
        "event_id": event_id,
        "at_s": at_s,
        "project": "default",
        "service": "chat",
        "model": "chat",
        "key_id": "key-1",
        "instance": "default.chat.1.0",
        "tokens": Tokens(10, 4, 5),
        "cost_pico": 7,
        "outcome": Outcome.COMPLETE,
        "first_token_s": 0.1,
        "duration_s": 0.5,
    }
    return Settlement(**(fields | rest))  # type: ignore[arg-type]


def test_declaring_gives_generations(store: Store) -> None:
    (first,) = store.declare((spec(),), 1.0)
    assert (first.generation, first.run_generation, first.serving) == (1, 1, 0)
    (same,) = store.declare((spec(),), 2.0)
    assert same == first, "an unchanged spec keeps its generation"
    (other,) = store.declare((spec(context_tokens=512),), 3.0)
    assert (other.generation, other.run_generation) == (2, 2)
    assert store.service("default", "chat") == other
    assert store.projects() == ("default",)


def test_a_change_that_running_instances_can_serve_needs_no_proof(store: Store) -> None:
    store.declare((spec(),), 1.0)
    store.mark_serving("default", "chat", 1)
    (scaled,) = store.declare((spec(replicas=Replicas(0, 4), price=Price(1)),), 2.0)
    assert (scaled.generation, scaled.serving, scaled.run_generation, scaled.serving_run) == (2, 2, 1, 1)
    assert scaled.serving_spec is not None and scaled.serving_spec.replicas.most == 4
    assert not scaled.rolling


def test_going_back_to_what_serves_needs_no_proof(store: Store) -> None:
    store.declare((spec(),), 1.0)
    store.mark_serving("default", "chat", 1)
    (rolling,) = store.declare((spec(context_tokens=512),), 2.0)
    assert rolling.rolling
    (back,) = store.declare((spec(),), 3.0)
    assert (back.generation, back.serving, back.run_generation) == (3, 3, 1)


def test_serving_and_failing(store: Store) -> None:
    store.declare((spec(),), 1.0)
    store.mark_serving("default", "chat", 1)
    store.declare((spec(context_tokens=512),), 2.0)
    store.mark_serving("default", "chat", 1)  # late word of an older generation
    found = store.service("default", "chat")
    assert found is not None and found.rolling and found.serving == 1
    store.mark_failed("default", "chat", 2, "it exits at once")
    found = store.service("default", "chat")
    assert found is not None and not found.rolling and found.failure == "it exits at once" and found.serving == 1
    (again,) = store.declare((spec(context_tokens=512),), 3.0)
    assert again.generation == 3 and again.rolling, "declaring what failed tries again"


def test_all_or_none(store: Store) -> None:
    written = store.declare((spec("a"), spec("b", "other")), 1.0)
    assert [s.spec.name for s in written] == ["a", "b"]
    assert [s.spec.name for s in store.services("other")] == ["b"]
    assert [s.spec.name for s in store.services()] == ["a", "b"]


def test_removing(store: Store) -> None:
    with pytest.raises(NotFound):
        store.remove_service("default", "chat", 1.0)
    store.declare((spec(),), 1.0)
    store.fold("j", 1, (settled("e"),), ())
    store.remove_service("default", "chat", 2.0)
    found = store.service("default", "chat")
    assert found is not None and found.removed
    with pytest.raises(NotFound):
        store.remove_service("default", "chat", 3.0)
    (back,) = store.declare((spec(),), 4.0)
    assert not back.removed and back.generation == 2
    store.remove_service("default", "chat", 5.0)
    store.forget_service("default", "chat")
    assert store.service("default", "chat") is None
    assert store.usage(UsageFilter())[0].requests == 1, "usage outlives its service"


def test_projects(store: Store) -> None:
    store.add_project("lab", 1.0)
    store.add_project("lab", 2.0)
    store.declare((spec(project="lab"),), 1.0)
    with pytest.raises(Conflict, match="chat"):
        store.remove_project("lab")
    store.forget_service("lab", "chat")
    store.put_key(KeyGrant("k", "h", "lab"))
    store.put_secret("lab", "token", b"sealed", 1.0)
    store.remove_project("lab")
    assert store.projects() == () and store.keys("lab") == () and store.secrets("lab") == ()
    with pytest.raises(NotFound):
        store.remove_project("lab")


def test_keys(store: Store) -> None:
    limits = Limits(60, 1000, 2, 5 * 10**12, BudgetWindow.DAY)
    grant = KeyGrant("key-1", "hash-1", "default", "ci", models=("chat",), limits=limits, expires_at_s=99.0)
    store.put_key(grant)
    assert store.keys() == (grant,) and store.keys("other") == ()
    with pytest.raises(Conflict):
        store.put_key(KeyGrant("key-2", "hash-1", "default"))
    revoked = store.revoke_key("key-1", 5.0)
    assert revoked.revoked_at_s == 5.0 and store.keys()[0].revoked_at_s == 5.0
    assert store.revoke_key("key-1", 6.0).revoked_at_s == 5.0
    with pytest.raises(NotFound):
        store.revoke_key("key-9", 1.0)


def test_secrets(store: Store) -> None:
    store.put_secret("default", "token", b"one", 1.0)
    store.put_secret("default", "token", b"two", 2.0)
    store.put_secret("default", "a", b"x", 3.0)
    assert store.secrets("default") == (("a", 3.0), ("token", 2.0))
    assert store.secret("default", "token") == b"two"
    assert store.secret("other", "token") is None
    store.remove_secret("default", "token")
    with pytest.raises(NotFound):
        store.remove_secret("default", "token")


def test_decisions_are_bounded(store: Store) -> None:
    made = tuple(Decision(float(n), "default", "chat", "agent", f"d{n}", "why", facts={"n": n}) for n in range(510))
    store.add_decisions(made)
    assert store.decisions("default", "chat", 3) == made[-3:]
    assert len(store.decisions("default", "chat", 1000)) == 500
    assert store.decisions("default", "other", 3) == ()


def test_folding_is_exactly_once(store: Store) -> None:
    time = InstanceTime("t1", 10.0, "default", "chat", "default.chat.1.0", "awake", 2.5, 3)
    assert store.fold("j", 100, (settled("a"), settled("b")), (time,)) == 3
    assert store.fold("j", 200, (settled("b"), settled("c")), (time,)) == 1
    assert store.journal_position("j") == 200 and store.journal_position("other") == 0
    (row,) = store.usage(UsageFilter())
    assert (row.requests, row.input_tokens, row.cached_input_tokens, row.output_tokens) == (3, 30, 12, 15)
    assert (row.cost_pico, row.day, row.account) == (21, "1970-01-01", "user")
    (spent,) = store.instance_time(UsageFilter())
    assert (spent.phase, spent.seconds, spent.cost_pico) == ("awake", 2.5, 3)
    store.forget_journal("j")
    assert store.journal_position("j") == 0


def test_usage_is_grouped_and_filtered(store: Store) -> None:
    store.fold(
        "j",
        1,
        (
            settled("a", key_id="key-1"),
            settled("b", key_id="key-2", at_s=DAY_S + 1),
            settled("c", service="other", account=Account.SYSTEM),
            settled("d", project="lab"),
        ),
        (),
    )
    rows = store.usage(UsageFilter())
    assert [(r.project, r.service, r.key_id, r.day, r.account) for r in rows] == [
        ("default", "chat", "key-1", "1970-01-01", "user"),
        ("default", "chat", "key-2", "1970-01-02", "user"),
        ("default", "other", "key-1", "1970-01-01", "system"),
        ("lab", "chat", "key-1", "1970-01-01", "user"),
    ]
    assert len(store.usage(UsageFilter(project="default"))) == 3
    assert len(store.usage(UsageFilter(service="other"))) == 1
    assert len(store.usage(UsageFilter(key_id="key-2"))) == 1
    assert len(store.usage(UsageFilter(since_s=DAY_S))) == 1
    assert len(store.usage(UsageFilter(until_s=DAY_S))) == 3


def test_spending_counts_users_only(store: Store) -> None:
    store.fold("j", 1, (settled("w1-1"), settled("w2-1", at_s=50.0), settled("w1-2", account=Account.SYSTEM)), ())
    assert store.spent_pico("key-1", 0.0) == 14
    assert store.spent_pico("key-1", 20.0) == 7
    assert store.spent_pico("key-1", 0.0, "w1-") == 7
    assert store.spent_pico("key-9", 0.0) == 0


def test_engine_counts_keep_the_newest_of_each_process(store: Store) -> None:
    def count(process: str, output: int) -> EngineCount:
        return EngineCount(f"{process}{output}", 1.0, "default", "chat", "i", process, Tokens(1, 0, output))

    store.fold("j", 1, (), (), (count("p1", 5), count("p1", 9), count("p2", 3)))
    assert store.engine_tokens("i") == Tokens(2, 0, 12)
    assert store.engine_tokens("other") == Tokens()
    assert store.all_engine_tokens("default", None) == Tokens(2, 0, 12)
    assert store.all_engine_tokens("lab", None) == Tokens()


def test_slices_facts_and_settings(store: Store) -> None:
    store.put_slice("key-1", 0.0, "w1", 5)
    store.put_slice("key-1", 0.0, "w1", 8)
    store.put_slice("key-1", DAY_S, "w1", 1)
    assert store.slices("key-1", 0.0) == {"w1": 8}
    fact = RungFact("sha", "deep", 0.02, 0.01, 100, 3)
    store.put_fact(RungFact("sha", "deep", 0.5, 0.01, 100, 1))
    store.put_fact(fact)
    assert store.facts() == (fact,)
    store.put_setting("a", "1")
    store.put_setting("a", "2")
    assert store.setting("a") == "2" and store.setting("b") is None
    store.check()


def test_outside_endpoints_survive(store: Store) -> None:
    outside = ServiceSpec("default", "gpt", endpoint=OutsideEndpoint("http://x/v1", "m", "token"))
    store.declare((outside,), 1.0)
    found = store.service("default", "gpt")
    assert found is not None and found.spec == outside


def test_sqlite_survives_a_reopen_and_backs_up(tmp_path: Path) -> None:
    first = SqliteStore(str(tmp_path / "store.db"))
    first.declare((spec(),), 1.0)
    first.backup_to(str(tmp_path / "copy.db"))
    first.close()
    for name in ("store.db", "copy.db"):
        again = SqliteStore(str(tmp_path / name))
        assert [s.spec.name for s in again.services()] == ["chat"]
        again.close()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_sqlite_says_plainly_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable, match="can't be used"):
        SqliteStore(str(tmp_path / "store.db"))
    with pytest.raises(Unavailable, match="can't be used"):
        SqliteStore(str(tmp_path / "missing" / "store.db"))
