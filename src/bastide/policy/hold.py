"""How a request waits for its service to wake: may it queue, how long, and when does it speak to its client.

Pure; times are seconds since the request began to wait.
"""

from __future__ import annotations

from bastide.domain.spec import HoldSettings

# A stream that waits longer than this gets its status line and explains itself from then on.
SILENT_S = 2.0
# A held stream says something at least this often, so that nothing in between takes it for dead.
SPEAK_EVERY_S = 10.0


def may_queue(hold: HoldSettings, queued: int) -> bool:
    """Whether one more request may wait while `queued` do."""
    return queued < hold.queue_max


def queue_retry_after_s(hold: HoldSettings, wake_s_expected: float | None) -> float:
    """When a refused client should come back: after the expected wake, or a tenth of the longest wait; 1 to 60 s."""
    guess = wake_s_expected if wake_s_expected is not None else hold.wait_s_max / 10
    return min(60.0, max(1.0, float(round(guess))))


def next_moment_s(waited_s: float, hold: HoldSettings, streams: bool, last_spoke_s: float | None) -> float:
    """When, counted from the start of the wait, something must happen next: speaking, or giving up at the bound."""
    if not streams:
        return hold.wait_s_max
    if last_spoke_s is None:
        return min(hold.wait_s_max, max(SILENT_S, waited_s))
    return min(hold.wait_s_max, last_spoke_s + SPEAK_EVERY_S)


def comment(service: str, text: str, fraction: float | None) -> str:
    """What a held stream says, as one SSE comment line's text: `waking chat, loading weights 62 %`."""
    said = f"waking {service}"
    if text:
        said += f", {text}"
    if fraction is not None:
        said += f" {round(min(1.0, max(0.0, fraction)) * 100)} %"
    # A newline would end the comment, and what follows would be read as part of the stream.
    return said.replace("\r", " ").replace("\n", " ")
