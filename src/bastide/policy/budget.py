"""Money: the most a request can cost, how large a slice a worker asks for, and how much control grants.

Pure and in whole pico-units. The one invariant: grants never sum to more than the budget, so nobody can spend twice.
"""

from __future__ import annotations

from bastide.domain.spec import Price

# The prompt template, roles and special tokens around the text of a request: far above what templates really add.
OVERHEAD_TOKENS = 512
# A worker asks for this many requests' worth at once, so that control is not asked for each.
_AHEAD_REQUESTS = 8
# No single grant takes more than this part of what is left, so that one worker can't starve the others.
_GRANT_PART = 4


def input_tokens_max(context_tokens: int, body_bytes: int, prompts: int = 1) -> int:
    """The most input tokens a body can hold: no token is shorter than a byte, and no prompt longer than the context."""
    return max(1, prompts) * min(context_tokens, body_bytes + OVERHEAD_TOKENS)


def output_tokens_max(context_tokens: int, choices: int, asked: int | None) -> int:
    """The most output tokens over all choices. `asked` None: no bound was given, so the context is one."""
    each = context_tokens if asked is None else min(asked, context_tokens)
    return max(1, choices) * max(1, each)


def cost_bound_pico(price: Price, input_tokens: int, output_tokens: int) -> int:
    """The most such a request can cost: every input token at the dearer of the two input prices."""
    dearest = max(price.input_pico_per_token, price.cached_input_pico_per_token)
    return input_tokens * dearest + output_tokens * price.output_pico_per_token


def slice_ask_pico(short_pico: int, bound_pico: int) -> int:
    """How much more a worker asks for when its slice is `short_pico` short of one request that may cost `bound_pico`."""
    return short_pico + (_AHEAD_REQUESTS - 1) * bound_pico


def grant(remaining_pico: int, need_pico: int, ask_pico: int) -> int:
    """How much of what remains of a budget one worker gets now.

    `remaining_pico`: the budget less everything spent outside slices and everything granted to any worker.
    `need_pico`: what its waiting request can't do without; `ask_pico` (at least the need): what it would like.
    Never more than remains, never more than asked; the need whenever it fits; beyond it a bounded part of the rest.
    """
    if remaining_pico <= 0 or ask_pico <= 0:
        return 0
    need = min(max(0, need_pico), ask_pico)
    if need > remaining_pico:
        # Part of a need helps nobody and would lie idle in this worker's slice.
        return 0
    return need + min(ask_pico - need, (remaining_pico - need) // _GRANT_PART)
