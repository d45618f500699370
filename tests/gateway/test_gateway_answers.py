"""What a client gets when all is well: whole and streamed answers, exact counts, facts about the request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from town import CHAT, PRICE, STREAM, town

from bastide.domain.ledger import Outcome, Tokens, cost_pico


def test_a_whole_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            status, head, body = await here.post(CHAT)
            assert status == 200, body
            assert msgspec.json.decode(body)["choices"][0]["message"]["content"] == "hello"
            assert b"x-bastide-instance: default.chat.1.0" in head
            assert b"x-bastide-wake: awake" in head
            assert b"server-timing: queue;dur=" in head and b"x-request-id: req_" in head
            assert here.engines[0].raw == [msgspec.json.encode(CHAT)]
            assert b"Authorization: Bearer sek" in here.engines[0].heads[0]
            [settled] = here.settlements()
            assert settled.outcome is Outcome.COMPLETE and settled.tokens == Tokens(7, 2, 3)
            assert settled.cost_pico == cost_pico(PRICE, settled.tokens) == 5 * 100 + 2 * 10 + 3 * 1000
            [reserved] = here.reservations()
            assert reserved.event_id == settled.event_id and reserved.reserved_pico >= settled.cost_pico

    asyncio.run(main())


def test_a_streamed_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            status, head, body = await here.post(STREAM)
            assert status == 200 and b"content-type: text/event-stream" in head
            events = [event for event in body.split(b"\n\n") if event]
            assert len(events) == 5 and events[-1] == b"data: [DONE]"
            assert b"timings" not in body
            assert msgspec.json.decode(events[0][6:])["choices"][0]["delta"]["content"] == "t1 "
            await here.until(lambda: bool(here.settlements()))
            assert here.settlements()[0].tokens == Tokens(7, 2, 3)
            assert here.progress()

    asyncio.run(main())


def test_lines_to_an_engine_are_used_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            for body in (CHAT, STREAM) * 5:
                assert (await here.post(body))[0] == 200
            assert here.engines[0].came == 1

    asyncio.run(main())
