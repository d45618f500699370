"""Which model a shared device runs next, and which it lets go, when many take turns on few. Pure: deadlines first, switches
seldom.

Each model that has work has a moment by which it must run again: a request's first token is due, or a stream that was
ahead of its reader runs dry. A device stays with the model it runs, which fills its batch and wins it time, until another
can't wait any longer; then the most urgent gets its turn. So waiting is bounded by what was promised, and nobody thrashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bastide.domain.units import format_duration

# A model is urgent this long before it must run: others' turns must still end first, and one of them may have to load.
MARGIN_S = 4.0
# A device runs one model for about this long, then it is asked again who is next.
TURN_S = 0.5
# A first token is due so much before it was promised: a stream that was late catches up, a first token that was late stays it.
FIRST_EARLIER_S = 0.5
# A cache that lies on another device is moved for a stream that is due so soon, and so much sooner than those whose cache lies here.
MOVE_S = 2.0
# Who is this late goes before all others, held or not, whoever is latest first: so nobody waits for ever.
OVERDUE_S = 10.0
# Loading is paid for by running: a device that was loaded for one runs those it holds this many times as long as the next load.
STAY_LOADS = 8.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model with work that this device could run. `due_s`: when it must run at the latest, from now; negative when late.

    `load_s`: to bring it onto the device first; 0 where it is there. `running`: it had the last turn.
    `elsewhere_s`: in how long another device that holds it comes to it (`comes_to_it_s`); infinite where none does.
    `displaces`: to bring it here, something with work would have to go.
    """

    name: str
    due_s: float
    load_s: float
    running: bool = False
    elsewhere_s: float = math.inf
    displaces: bool = False

    @property
    def slack_s(self) -> float:
        return self.due_s - self.load_s

    @property
    def elsewhere(self) -> bool:
        """Whether another device holds it."""
        return self.elsewhere_s < math.inf

    def better_here(self, here_s: float) -> bool:
        """Whether nobody else holds it, or they would be late for it and this device, in `here_s`, is sooner. A second copy is
        not worth the place of a model with work: that one would be missed as soon."""
        late_there = not self.displaces and self.elsewhere_s > self.due_s
        return not self.elsewhere or (late_there and here_s < self.elsewhere_s)


@dataclass(frozen=True, slots=True)
class Held:
    """A model that a device holds and could let go. `due_s`: when it must run again; infinite where it has no work.

    `elsewhere`: another device holds it too.
    """

    name: str
    due_s: float = math.inf
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """`index` into the candidates; None: nobody has work. `reason` for the log."""

    index: int | None
    reason: str


def comes_to_it_s(turn_left_s: float, others_due_s: Iterable[float], due_s: float) -> float:
    """In how long a device comes to a model that is due then: when its turn is over, and those due sooner have had theirs."""
    return turn_left_s + TURN_S * sum(1 for other_s in others_due_s if other_s < due_s)


def next_turn(
    candidates: Sequence[Candidate],
    since_load_s: float,
    margin_s: float = MARGIN_S,
    stay_loads: float = STAY_LOADS,
) -> Turn:
    """Who runs next: whoever runs now, until somebody is urgent; then the one with the least slack.

    What another device holds is left to it, unless it would be late there and sooner here, and who is held here can wait for
    the load. A device that has nothing else to do takes such a one as soon as it is urgent.

    `since_load_s`: how long ago the device last loaded a model. Until that load has paid for itself, only those it holds
    are asked, if any of them has work. Of those who are late already, those it holds come first, for loading another makes all
    later; but not before those who are `OVERDUE_S` late.
    """
    if not candidates:
        return Turn(None, "nobody has work")
    if all(one.elsewhere for one in candidates):
        # It stops nobody by loading.
        open_ = [i for i, one in enumerate(candidates) if one.slack_s < margin_s and not one.displaces]
    else:
        spare_s = min((one.due_s for one in candidates if one.load_s == 0 and not one.elsewhere), default=math.inf)
        open_ = [
            i
            for i, one in enumerate(candidates)
            if not one.elsewhere or (one.better_here(one.load_s) and one.load_s <= spare_s)
        ]
    able = [i for i in open_ if candidates[i].load_s == 0 or since_load_s >= stay_loads * candidates[i].load_s] or open_
    if not able:
        return Turn(None, "others hold all that has work, and have time for it")
    least = min(able, key=lambda i: _order(candidates[i]))
    chosen = candidates[least]
    running = next((i for i in able if candidates[i].running), least)
    if running != least and chosen.slack_s > margin_s:
        return Turn(running, f"{candidates[running].name} goes on: {chosen.name} can wait {_lasting(chosen.slack_s)}")
    return Turn(least, f"{chosen.name} is due first, in {_lasting(chosen.due_s)}")


def meanwhile(
    candidates: Sequence[Candidate],
    comes: int,
    on_its_way: bool,
    margin_s: float = MARGIN_S,
    stay_loads: float = STAY_LOADS,
) -> Turn:
    """Who runs while the chosen one, `comes`, is loaded: a device that holds something with work doesn't stand still for a load.
    Unless that one is on its way already and has no time for another's turn."""
    held = [i for i, one in enumerate(candidates) if one.load_s == 0 and not one.elsewhere]
    chosen = candidates[comes]
    if not held or (on_its_way and chosen.slack_s < TURN_S):
        return Turn(comes, f"{chosen.name} is waited for")
    turn = next_turn([candidates[i] for i in held], math.inf, margin_s, stay_loads)
    assert turn.index is not None
    return Turn(held[turn.index], f"{turn.reason}; {chosen.name} is loaded meanwhile")


def _order(one: Candidate) -> tuple[bool, float, float, float]:
    """The least is next."""
    if one.slack_s < -OVERDUE_S:
        return False, one.slack_s, 0.0, 0.0
    return True, max(0.0, one.slack_s), one.load_s, one.slack_s


def _lasting(seconds: float) -> str:
    return format_duration(max(0.0, seconds)) if seconds < math.inf else "any time"


def batch_order_s(next_token_s: float, moves: bool) -> float:
    """In which order streams of one model join a turn while there is room for their caches; `moves`: it lies on another device."""
    return next_token_s + MOVE_S if moves else next_token_s


def worth_a_move(due_s: float) -> bool:
    """Whether a stream that is due then is taken from a device that has its cache and its model, and may have time for it."""
    return due_s <= MOVE_S


def due_s(first_token_s: float, next_token_s: float, earlier_s: float = FIRST_EARLIER_S) -> float:
    """When a model must run, whose first tokens and whose next tokens of streams are due then; infinite for none."""
    return min(first_token_s - earlier_s, next_token_s)


def gives_way(held: Sequence[Held]) -> Turn:
    """Which model goes when another needs its place. First who has no work, then who is held elsewhere too; of those, and where
    neither is there, the one that must run again last (Belady's rule: it is missed last); of equals the first."""
    if not held:
        return Turn(None, "it holds none")
    last = min(range(len(held)), key=lambda i: (held[i].due_s < math.inf and not held[i].elsewhere, -held[i].due_s))
    chosen = held[last]
    if chosen.due_s == math.inf:
        return Turn(last, f"{chosen.name} has no work")
    also = ", and another device holds it too" if chosen.elsewhere else ""
    return Turn(last, f"{chosen.name} can wait longest, {_lasting(chosen.due_s)}{also}")


def worth_the_place(due_s: float, gives_way_due_s: float) -> bool:
    """Whether what is due then may have the place of what must run then: later by a turn at least, or places change for nothing."""
    return due_s + TURN_S <= gives_way_due_s


def load_ahead(
    candidates: Sequence[Candidate],
    turn_left_s: float = TURN_S,
    held_due_s: Sequence[float] = (),
    gives_way_due_s: float = math.inf,
    margin_s: float = MARGIN_S,
) -> Turn:
    """Which model to bring onto the device while another one runs there: of those that it does not hold, the one that must run
    soonest, once it is urgent. Copying uses other parts of a device than computing, so this costs a place and no time.

    `turn_left_s`: of the one that runs; `held_due_s`: when those that it holds must run; `gives_way_due_s`: when the one must
    that would give way for it (infinite where there is a place, or that one has no work).
    """
    open_ = [
        i
        for i, one in enumerate(candidates)
        if one.load_s > 0
        and worth_the_place(one.due_s, gives_way_due_s)
        and one.better_here(comes_to_it_s(max(turn_left_s, one.load_s), held_due_s, one.due_s))
    ]
    if not open_:
        return Turn(None, "it holds all that has work soon, or others do")
    first = min(open_, key=lambda i: candidates[i].slack_s)
    chosen = candidates[first]
    if chosen.slack_s >= margin_s:
        return Turn(None, f"{chosen.name} can wait {_lasting(chosen.slack_s)}")
    return Turn(first, f"{chosen.name} is loaded meanwhile: it is due in {_lasting(chosen.due_s)}")
