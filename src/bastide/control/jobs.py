"""Jobs: apps that run to completion, once after each deploy or by a schedule. Owns when they run and what came of it.

A run is written down before it begins and when it has ended: one that a kill cut off is found and tried again, within its
retries. One run of a job at a time; of the times missed meanwhile one is made up for.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from bastide.control import apps
from bastide.domain.apps import Job
from bastide.domain.errors import BastideError, Conflict
from bastide.domain.identity import instance_id
from bastide.domain.instances import Assignment
from bastide.domain.plan import DesiredService
from bastide.policy.jobs import Act, Standing, look
from bastide.ports.link import LinkLost

if TYPE_CHECKING:
    from bastide.control.state import Control

RUNS_KEPT = 20
SAID_MAX = 2000
LOOK_S_MAX = 60.0
AGAIN_S = 1.0  # between two tries
_STATUS = re.compile(r"ended with status (\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """`cause`: deployed, scheduled or asked. `ended_s` None: it runs, or was cut off. `attempts` begun so far."""

    number: int
    generation: int
    cause: str
    began_s: float
    ended_s: float | None = None
    attempts: int = 0
    exit_code: int | None = None
    reason: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class JobState:
    """What is kept of one job. `generation`: the last one that was run for having been deployed."""

    generation: int = 0
    due_s: float | None = None
    schedule: str = ""
    runs: tuple[Run, ...] = ()


def next_s(schedule: str, after_s: float) -> float:
    """When a schedule is due next, in seconds since the epoch. Its times are UTC."""
    from cronsim import CronSim

    return float(next(CronSim(schedule, datetime.fromtimestamp(after_s, UTC))).timestamp())


class Jobs:
    """Every job of this location."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._states: dict[tuple[str, str], JobState] = {}

    def state(self, key: tuple[str, str]) -> JobState:
        if key not in self._states:
            text = self._control.store.setting(self._name(key))
            self._states[key] = msgspec.json.decode(text, type=JobState) if text else JobState()
        return self._states[key]

    def is_running(self, key: tuple[str, str]) -> bool:
        return key in self._running

    async def run(self) -> None:
        """Until cancelled. Looks when something changed, and when one is due."""
        watcher = self._control.loop.watch()
        try:
            while True:
                watcher.clear()
                wait_s = self._look() if self._control.loop.synced else LOOK_S_MAX
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watcher.wait(), wait_s)
        finally:
            self._control.loop.unwatch(watcher)
            for task in self._running.values():
                task.cancel()

    def ask(self, service: DesiredService) -> Run:
        """Somebody wants it run now. Raises Conflict where it runs already, or is no job."""
        key = (service.spec.project, service.spec.name)
        if _job_of(service) is None:
            raise Conflict(f"{service.spec.name} is no job that could run")
        if key in self._running:
            raise Conflict(f"{service.spec.name} runs already; `bastide jobs {service.spec.name}` shows how far it is")
        return self._begin(key, service, "asked")

    # --- when ------------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        """Begin what is due. Returns how long nothing will be."""
        now_s, wait_s = self._control.now_s(), LOOK_S_MAX
        for key, service in list(self._control.loop.services.items()):
            job = _job_of(service)
            if job is None or service.serving_spec is None or service.serving_spec.app is None:
                continue
            state, schedule = self.state(key), service.serving_spec.app.schedule
            if state.schedule != schedule:
                state = self._keep(key, replace(state, schedule=schedule, due_s=None))
            cut_off = state.runs[-1] if state.runs and state.runs[-1].ended_s is None else None
            verdict = look(
                Standing(
                    bool(schedule),
                    state.due_s,
                    key in self._running,
                    cut_off is not None,
                    state.generation,
                    service.serving,
                ),
                now_s,
            )
            if verdict.moves_on:
                self._keep(key, replace(state, due_s=next_s(schedule, now_s)))
            if verdict.act is Act.LEAVE_OUT:
                self._control.loop.note(service.spec, verdict.act.value, verdict.reason)
            elif verdict.act is Act.TAKE_UP and cut_off is not None:
                self._begin(key, service, cut_off.cause, cut_off)
            elif verdict.act is Act.BEGIN:
                self._begin(key, service, verdict.cause)
            if schedule and (due_s := self.state(key).due_s) is not None:
                wait_s = min(wait_s, max(0.05, due_s - now_s))
            self._tell(key)
        return wait_s

    def _begin(self, key: tuple[str, str], service: DesiredService, cause: str, cut_off: Run | None = None) -> Run:
        state = self.state(key)
        number = state.runs[-1].number + 1 if state.runs else 1
        run = cut_off or Run(number, service.serving, cause, self._control.now_s())
        runs = state.runs if cut_off is not None else (*state.runs, run)[-RUNS_KEPT:]
        self._keep(key, replace(state, generation=service.serving, runs=runs))
        task = asyncio.get_running_loop().create_task(self._run(key, service, run))
        self._running[key] = task
        self._control.loop.note(service.spec, "run", f"run {run.number}: {cause}")
        return run

    # --- running ---------------------------------------------------------------------------------------------------

    async def _run(self, key: tuple[str, str], service: DesiredService, run: Run) -> None:
        job = _job_of(service)
        assert job is not None
        try:
            while True:
                run = self._note(key, replace(run, attempts=run.attempts + 1))
                code, reason, said = await self._tried(service, job)
                if code == 0 or run.attempts > job.retries:
                    break
                self._control.loop.note(service.spec, "try again", f"run {run.number}, try {run.attempts}: {reason}")
                self._note(key, replace(run, reason=reason, exit_code=code))
                await asyncio.sleep(AGAIN_S)
            run = replace(run, ended_s=self._control.now_s(), exit_code=code, reason=reason, said=said[-SAID_MAX:])
            self._note(key, run)
            self._control.loop.note(service.spec, "done" if code == 0 else "fail", f"run {run.number} {reason}")
        finally:
            del self._running[key]
            self._tell(key)
            self._control.loop.hint()

    async def _tried(self, service: DesiredService, job: Job) -> tuple[int | None, str, str]:
        """(status, how it ended, what it last said). Status None: it did not end by itself."""
        spec = service.serving_spec or service.spec
        assert spec.app is not None and self._control.loop.builds is not None
        instance = instance_id(spec.project, spec.name, service.serving_run or service.run_generation, 0)
        try:
            build = await asyncio.to_thread(self._control.loop.builds.build, spec.app, lambda line: None)
            assignment = Assignment(instance, service.serving, 0, spec, None, False, build)
            body = {"assignment": msgspec.to_builtins(assignment), "limit_s": job.limit_s}
            answer = await self._control.node.call("run", body)
        except BastideError as error:
            return None, f"could not run: {error.message}", ""
        except LinkLost:
            return None, "was cut off: the node's agent went away", ""
        finally:
            apps.forget_key(self._control, instance)
        match = _STATUS.search(answer["ended"])
        return int(match[1]) if match else None, answer["ended"], answer["said"]

    # --- books -----------------------------------------------------------------------------------------------------

    def _note(self, key: tuple[str, str], run: Run) -> Run:
        state = self.state(key)
        self._keep(key, replace(state, runs=(*(r for r in state.runs if r.number != run.number), run)))
        self._tell(key)
        return run

    def _keep(self, key: tuple[str, str], state: JobState) -> JobState:
        if state != self._states.get(key):
            self._states[key] = state
            self._control.store.put_setting(self._name(key), msgspec.json.encode(state).decode())
        return state

    def _tell(self, key: tuple[str, str]) -> None:
        """What `ps` says of it."""
        state, runs = self.state(key), self.state(key).runs
        text = "waits for its time"
        if runs:
            last = runs[-1]
            text = f"run {last.number} " + (
                f"{last.reason}"
                if last.ended_s is not None
                else f"is under way, try {max(1, last.attempts)}; `bastide jobs {key[1]}` tells how it ends"
            )
        if state.due_s is not None and key not in self._running:
            text += f"; due {datetime.fromtimestamp(state.due_s, UTC).strftime('%Y-%m-%d %H:%M')} UTC"
        note = (key in self._running, text)
        if self._control.loop.job_notes.get(key) != note:
            self._control.loop.job_notes[key] = note
            self._control.loop.told()

    @staticmethod
    def _name(key: tuple[str, str]) -> str:
        return f"job:{key[0]}/{key[1]}"


def _job_of(service: DesiredService) -> Job | None:
    """A built job that is to be run; None for everything else."""
    spec = service.serving_spec
    return (
        spec.app.job if spec is not None and spec.app is not None and not service.removed and service.serving else None
    )
