"""Planning and checking: tables, then worlds driven until they rest."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bastide.domain.instances import WeightFile
from bastide.domain.plan import (
    Assign,
    DesiredService,
    FetchWeights,
    Forget,
    Prove,
    Serve,
    Unassign,
    declared,
    failed,
    proven,
)
from bastide.domain.spec import ModelSource, OutsideEndpoint, Replicas, ServiceSpec
from bastide.policy.check import Known, check
from bastide.policy.reconcile import Present, Snapshot, plan

URL = "builtin://tiny"
FILES = {URL: WeightFile("/w", 3_000_000, "sha")}
SPEC = ServiceSpec("default", "chat", model=ModelSource(URL), replicas=Replicas(1, 2))
NEW = declared(None, SPEC, 1.0)
SERVING = proven(NEW, 1)


def present(generation: int, index: int, *, is_proven: bool = True, name: str = "chat") -> Present:
    return Present(f"default.{name}.{generation}.{index}", "default", name, generation, index, is_proven)


def kinds(service: DesiredService, *here: Present, files: dict[str, WeightFile] | None = None) -> list[str]:
    actions = plan(Snapshot((service,), here, FILES if files is None else files))
    return [type(action).__name__ for action in actions]


def test_weights_come_first() -> None:
    (action,) = plan(Snapshot((NEW,), (), {}))
    assert isinstance(action, FetchWeights) and URL in action.reason


def test_then_one_instance_which_must_prove_itself() -> None:
    (action,) = plan(Snapshot((NEW,), (), FILES))
    assert isinstance(action, Assign) and action.assignment.instance == "default.chat.1.0"
    assert not action.assignment.keep_awake, "not before it is proven"
    assert "Prove" in kinds(NEW, present(1, 0, is_proven=False))
    assert "Serve" in kinds(NEW, present(1, 0))


def test_once_it_serves_all_replicas_are_there() -> None:
    actions = plan(Snapshot((SERVING,), (present(1, 0),), FILES))
    assigns = {a.assignment.instance: a.assignment for a in actions if isinstance(a, Assign)}
    assert set(assigns) == {"default.chat.1.0", "default.chat.1.1"}
    assert assigns["default.chat.1.0"].keep_awake and not assigns["default.chat.1.1"].keep_awake


def test_at_rest_there_is_nothing_to_do() -> None:
    first = plan(Snapshot((SERVING,), (), FILES))
    here = tuple(
        replace(present(1, a.assignment.index), assignment=a.assignment) for a in first if isinstance(a, Assign)
    )
    assert plan(Snapshot((SERVING,), here, FILES)) == ()


def test_the_old_generation_serves_until_the_new_one_is_proven() -> None:
    rolling = declared(SERVING, replace(SPEC, context_tokens=512), 2.0)
    actions = plan(Snapshot((rolling,), (present(1, 0), present(1, 1)), FILES))
    assert not any(isinstance(action, Unassign) for action in actions)
    done = proven(rolling, 2)
    actions = plan(Snapshot((done,), (present(1, 0), present(1, 1), present(2, 0)), FILES))
    ended = {a.instance for a in actions if isinstance(a, Unassign)}
    assert ended == {"default.chat.1.0", "default.chat.1.1"}


def test_a_failed_generation_is_let_go_and_never_takes_traffic() -> None:
    rolling = declared(SERVING, replace(SPEC, context_tokens=512), 2.0)
    over = failed(rolling, 2, "it exits at once")
    actions = plan(Snapshot((over,), (present(1, 0), present(1, 1), present(2, 0, is_proven=False)), FILES))
    assert [a.instance for a in actions if isinstance(a, Unassign)] == ["default.chat.2.0"]
    assert not any(isinstance(action, Serve | Prove) for action in actions)


def test_missing_weights_never_end_what_serves() -> None:
    actions = plan(Snapshot((SERVING,), (present(1, 0), present(1, 1)), {}))
    assert [type(action) for action in actions] == [FetchWeights]


def test_removal() -> None:
    gone = replace(SERVING, removed=True)
    assert kinds(gone, present(1, 0)) == ["Unassign"]
    assert [type(a) for a in plan(Snapshot((gone,), (), FILES))] == [Forget]


def test_an_outside_endpoint_serves_at_once() -> None:
    outside = declared(None, ServiceSpec("default", "gpt", endpoint=OutsideEndpoint("http://x/v1", "m")), 1.0)
    assert [type(a) for a in plan(Snapshot((outside,), (), {}))] == [Serve]


KNOWN = Known(frozenset(), frozenset(), frozenset(), 10**9)


def test_a_mass_change_nobody_asked_for_is_refused_until_confirmed() -> None:
    here = tuple(present(1, 0, name=f"s{n}") for n in range(10))
    actions = plan(Snapshot((), here, FILES))
    known = replace(KNOWN, present=frozenset(p.instance for p in here))
    refusals = check(actions, known)
    assert len(refusals) == 10 and "bastide confirm" in refusals[0].reason
    assert check(actions, replace(known, confirmed=True)) == ()
    assert check(actions[:1], known) == ()


def test_what_can_never_fit_is_refused() -> None:
    (refusal,) = check(plan(Snapshot((NEW,), (), FILES)), replace(KNOWN, budget_bytes=1_000_000))
    assert "--memory" in refusal.reason


def test_an_unproven_generation_never_serves() -> None:
    serve = Serve("default", "chat", 1, "because")
    assert len(check((serve,), KNOWN)) == 1
    assert check((serve,), replace(KNOWN, proven_services=frozenset({("default", "chat")}))) == ()


SPECS = st.builds(
    lambda context, least, more: replace(SPEC, context_tokens=context, replicas=Replicas(least, least + more)),
    st.sampled_from([256, 512]),
    st.integers(0, 1),
    st.integers(1, 2),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(SPECS, st.booleans(), st.integers(0, 6)), min_size=1, max_size=6))
def test_any_history_of_declarations_converges(history: list[tuple[ServiceSpec, bool, int]]) -> None:
    """Whatever was declared, however far each rollout came, and whichever proofs failed: it comes to rest, rightly."""
    service: DesiredService | None = None
    here: dict[str, Present] = {}
    files: dict[str, WeightFile] = {}

    def rounds(count: int, proofs_hold: bool) -> int:
        nonlocal service
        for number in range(count):
            assert service is not None
            actions = plan(Snapshot((service,), tuple(here.values()), files))
            if not actions:
                return number
            for action in actions:
                match action:
                    case FetchWeights():
                        files.update(FILES)
                    case Assign(a, _):
                        old = here.get(a.instance)
                        was_proven = old.proven if old is not None else False
                        here[a.instance] = Present(a.instance, "default", "chat", a.generation, a.index, was_proven, a)
                    case Unassign(instance):
                        here.pop(instance, None)
                    case Prove(instance, _, _, generation):
                        if proofs_hold:
                            here[instance] = replace(here[instance], proven=True)
                        else:
                            service = failed(service, generation, "no")
                    case Serve(_, _, generation):
                        assert any(p.proven for p in here.values())
                        service = proven(service, generation)
        return count

    for spec, proofs_hold, count in history:
        service = declared(service, spec, 1.0)
        rounds(count, proofs_hold)
        if service.serving_spec is not None:
            serving = {p.instance for p in here.values() if p.generation == service.serving_run}
            assert serving or not here or count == 0 or service.serving_run not in {p.generation for p in here.values()}
    assert rounds(20, True) < 20, "it must come to rest"
    assert service is not None
    if service.serving == service.generation:
        assert len(here) == service.spec.replicas.most
        assert all(p.generation == service.run_generation for p in here.values())
