"""How many copies a service should have: gathers what is known of its load, the shipped autoscaling decides."""

from __future__ import annotations

from bastide.policy.autoscale import Load, scale
from bastide.policy.forecast import Forecast
from bastide.sim.fleet.live import Live

# What was late is forgotten by so much at each look.
LATE_KEPT = 0.8


def copies_wanted(live: Live, now_s: float, clock_s: float, tick_s: float, predict: bool) -> int:
    """`now_s` of the world, `clock_s` as control reads it; `tick_s`: how often this is asked; `predict`: by a forecast too."""
    expected = 0.0
    if predict and live.target.most > 1:
        if live.forecast is None:
            live.forecast = Forecast()
        lead_s = tick_s + live.spec.ways[0].cached_s
        live.forecast.saw(clock_s, live.in_flight, lead_s)
        expected = live.forecast.expected(clock_s, live.in_flight, lead_s)
    room = sum(one.way.kv_tokens for one in live.awake)
    used = sum(one.kv_tokens for one in live.awake)
    load = Load(
        live.in_flight,
        live.queued,
        len(live.awake),
        live.starting,
        tokens_per_s=live.prompts(now_s, 0.0),
        kv_share=used / room if room else 0.0,
        first_token_s=live.late_s,
        expected=expected,
        warm=live.warm,
    )
    live.late_s *= LATE_KEPT
    chosen, live.memory = scale(load, live.target, live.memory, clock_s)
    return chosen.copies
