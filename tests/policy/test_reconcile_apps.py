"""How plans differ for apps: built before they start, and three ways to take over. Pure tables."""

from __future__ import annotations

from dataclasses import replace

from bastide.domain.apps import AppSpec, Build, Rollout, build_inputs
from bastide.domain.plan import DesiredService, declared, failed, proven
from bastide.domain.spec import Replicas, ServiceKind, ServiceSpec
from bastide.policy.reconcile import Present, Snapshot, plan


def app(source: str, way: Rollout = Rollout.ROLLING, most: int = 2) -> ServiceSpec:
    made = AppSpec(source=source, rollout=way)
    return ServiceSpec("default", "api", ServiceKind.APP, engine="app", replicas=Replicas(0, most), app=made)


def build_of(spec: ServiceSpec) -> dict[tuple[object, ...], Build]:
    assert spec.app is not None
    return {build_inputs(spec.app): Build("key-" + spec.app.source, "command", "", "/s", ("x",))}


def at(generation: int, index: int, *, proven: bool = True, awake: bool = False) -> Present:
    return Present(f"default.api.{generation}.{index}", "default", "api", generation, index, proven, None, awake)


def kinds(service: DesiredService, *here: Present, built: tuple[ServiceSpec, ...] = ()) -> list[str]:
    builds = {key: build for spec in built for key, build in build_of(spec).items()}
    found = []
    for action in plan(Snapshot((service,), here, builds=builds)):
        target = getattr(action, "instance", "") or getattr(getattr(action, "assignment", None), "instance", "")
        found.append(f"{type(action).__name__} {target.removeprefix('default.api.')}".strip())
    return found


ONE, TWO = app("one"), app("two")
FIRST = declared(None, ONE, 0.0)
SERVING = proven(FIRST, 1)


def test_an_app_is_built_then_assigned_then_proven() -> None:
    assert kinds(FIRST) == ["MakeBuild"]
    assert kinds(FIRST, built=(ONE,)) == ["Assign 1.0"]
    assert "Prove 1.0" in kinds(FIRST, at(1, 0, proven=False), built=(ONE,))
    assert "Serve" in kinds(FIRST, at(1, 0), built=(ONE,))


def test_every_assignment_carries_its_build() -> None:
    (action,) = plan(Snapshot((FIRST,), (), builds=build_of(ONE)))
    assert action.assignment.content == "key-one"  # type: ignore[union-attr]


def test_rolling_keeps_the_old_one_until_the_new_one_is_proven() -> None:
    rolling = declared(SERVING, TWO, 1.0)
    here = (at(1, 0, awake=True), at(1, 1))
    assert kinds(rolling, *here, built=(ONE,)) == ["Assign 1.0", "Assign 1.1", "MakeBuild"]
    made = kinds(rolling, *here, at(2, 0, proven=False), built=(ONE, TWO))
    assert "Prove 2.0" in made and not any(kind.startswith("Unassign") for kind in made)


def test_blue_green_proves_as_many_as_were_awake() -> None:
    green = app("two", Rollout.BLUE_GREEN)
    rolling = declared(SERVING, green, 1.0)
    old = (at(1, 0, awake=True), at(1, 1, awake=True))
    assert {"Assign 2.0", "Assign 2.1"} <= set(kinds(rolling, *old, built=(ONE, green)))
    assert "Serve" not in kinds(rolling, *old, at(2, 0), at(2, 1, proven=False), built=(ONE, green))
    assert "Serve" in kinds(rolling, *old, at(2, 0), at(2, 1), built=(ONE, green))
    asleep = (at(1, 0), at(1, 1))
    assert "Serve" in kinds(rolling, *asleep, at(2, 0), built=(ONE, green))


def test_immediate_ends_the_old_one_first_and_brings_it_back_where_the_new_one_fails() -> None:
    at_once = app("two", Rollout.IMMEDIATE, most=1)
    rolling = declared(SERVING, at_once, 1.0)
    assert kinds(rolling, at(1, 0), built=(ONE,)) == ["Assign 1.0", "Assign 1.1", "MakeBuild"], (
        "never before it is built"
    )
    assert kinds(rolling, at(1, 0), built=(ONE, at_once)) == ["Unassign 1.0"]
    assert kinds(rolling, built=(ONE, at_once)) == ["Assign 2.0"]
    assert "Assign 1.0" in kinds(failed(rolling, 2, "sick"), built=(ONE, at_once))


def test_what_serves_is_not_let_go_because_its_build_is_gone() -> None:
    assert kinds(SERVING, at(1, 0)) == ["MakeBuild"]


def test_where_a_rollback_leads() -> None:
    assert SERVING.previous_spec is None
    second = proven(declared(SERVING, TWO, 1.0), 2)
    assert second.previous_spec == ONE
    shown = replace(TWO, app=replace(TWO.app, public=True) if TWO.app is not None else None)
    assert declared(second, shown, 2.0).previous_spec == TWO  # nothing had to start for it
    # Back from one that failed to what serves; and once more, to what served before that.
    third = failed(declared(second, replace(TWO, replicas=Replicas(0, 7), app=ONE.app), 3.0), 3, "sick")
    back = declared(third, TWO, 4.0)
    assert (back.serving_spec, back.previous_spec) == (TWO, ONE)
