"""Leases, holds and failures: waking once, waiting bounded, moving silently, telling cleanly."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from town import CHAT, KEY, LAST, STREAM, Script, head, plain, request, split, token, town, whole

from bastide.domain.errors import EngineStartFailed, NoRoom, NotFound
from bastide.domain.keys import Limits
from bastide.domain.ledger import Account, Outcome, Tokens
from bastide.domain.spec import HoldSettings
from bastide.policy import hold as hold_policy
from bastide.ports.link import Notify


def error_code(body: bytes) -> str:
    return str(msgspec.json.decode(body)["error"]["code"])


def test_many_requests_wake_an_instance_once(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def wake(notify: Notify) -> None:
            await gate.wait()

        async with town(tmp_path) as here:
            instance = here.agent.instances["default.chat.1.0"]
            instance.wake, instance.woke_from = wake, "light"
            answers = [asyncio.create_task(here.post(CHAT)) for _ in range(20)]
            await here.until(
                lambda: bool(here.control.loads) and here.control.loads[-1]["services"]["default/chat"]["queued"] == 20
            )
            gate.set()
            for status, top, _ in await asyncio.gather(*answers):
                assert status == 200
                assert b"x-bastide-wake: light" in top
            assert here.agent.acquired == ["default.chat.1.0"]
            status, top, _ = await here.post(CHAT)
            assert b"x-bastide-wake: awake" in top

    asyncio.run(main())


def test_the_queue_is_bounded_and_refuses_with_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        async def never(notify: Notify) -> None:
            await asyncio.Event().wait()

        async with town(tmp_path, service={"hold": HoldSettings(wait_s_max=0.3, queue_max=2)}) as here:
            here.agent.instances["default.chat.1.0"].wake = never
            answers = await asyncio.gather(*(here.post(CHAT) for _ in range(4)))
            codes = sorted(error_code(body) for _, _, body in answers)
            assert codes == ["queue_full", "queue_full", "wake_timeout", "wake_timeout"]
            assert all(b"retry-after: " in top for _, top, _ in answers)
            assert here.ledger() == []

    asyncio.run(main())


def test_a_held_stream_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_policy, "SILENT_S", 0.05)
    monkeypatch.setattr(hold_policy, "SPEAK_EVERY_S", 0.1)

    async def main() -> None:
        gate = asyncio.Event()

        async def wake(notify: Notify) -> None:
            notify({"text": "loading weights", "fraction": 0.62})
            await gate.wait()

        async with town(tmp_path) as here:
            here.agent.instances["default.chat.1.0"].wake = wake
            reader, writer = await here.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            said = await reader.readuntil(b"62 %\n\n\r\n")
            assert b"200 OK" in said and b": waking chat, loading weights 62 %" in said
            assert b"x-bastide-wake" not in said
            gate.set()
            rest = await reader.read()
            assert b': {"x-request-id"' in rest and b'"x-bastide-wake": "awake"' in rest
            assert rest.index(b"server-timing") < rest.index(b"t1 ")
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.close()

    asyncio.run(main())


def test_a_held_stream_that_fails_raises_in_the_official_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_policy, "SILENT_S", 0.05)

    async def main() -> None:
        async def never(notify: Notify) -> None:
            await asyncio.Event().wait()

        async with (
            town(tmp_path, service={"hold": HoldSettings(wait_s_max=0.2)}) as here,
            openai.AsyncOpenAI(base_url=here.url, api_key=KEY, max_retries=0) as client,
        ):
            here.agent.instances["default.chat.1.0"].wake = never
            with pytest.raises(openai.APIError, match=r"did not within 0.2 s"):
                async for _ in await client.chat.completions.create(**_openai(STREAM)):
                    pass

    asyncio.run(main())


def _openai(body: dict[str, Any]) -> Any:
    return body


@pytest.mark.parametrize("failure", [NoRoom("no room on this node", retry_after_s=7), EngineStartFailed("bad weights")])
def test_a_wake_that_fails_is_told_cleanly_and_tried_anew(tmp_path: Path, failure: Any) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            here.agent.instances["default.chat.1.0"].failure = failure
            status, top, body = await here.post(CHAT)
            assert status == 503 and error_code(body) == failure.code
            assert (b"retry-after: 7" in top) == (failure.retry_after_s is not None)
            here.agent.instances["default.chat.1.0"].failure = None
            status, _, _ = await here.post(CHAT)
            assert status == 200

    asyncio.run(main())


def test_a_wake_that_fails_goes_to_the_next_instance(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, engines=[Script(), Script()]) as here:
            here.agent.instances["default.chat.1.0"].failure = NoRoom("full")
            status, top, _ = await here.post(CHAT)
            assert status == 200 and b"default.chat.1.1" in top

    asyncio.run(main())


def test_a_client_that_leaves_the_queue_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def wake(notify: Notify) -> None:
            await gate.wait()

        async with town(tmp_path) as here:
            here.agent.instances["default.chat.1.0"].wake = wake
            lines = []
            for _ in range(5):
                _, writer = await here.dial()
                writer.write(request(msgspec.json.encode(CHAT)))
                lines.append(writer)
            await here.until(lambda: here.control.loads[-1]["services"]["default/chat"]["queued"] == 5)
            for writer in lines:
                writer.close()
            await here.until(lambda: here.control.loads[-1]["services"]["default/chat"]["queued"] == 0)
            gate.set()
            status, _, _ = await here.post(CHAT)
            assert status == 200 and len(here.engines[0].calls) == 1
            assert (await here.agent.revoke("default.chat.1.0"))["released"]

    asyncio.run(main())


def test_a_lease_goes_back_only_when_nothing_is_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            await plain(script, body, writer)

        async with town(tmp_path, engines=[Script(slow)]) as here:
            answer = asyncio.create_task(here.post(CHAT))
            await here.until(lambda: bool(here.engines[0].calls))
            told = await here.agent.revoke("default.chat.1.0")
            assert told["released"] is False and told["in_flight"] == 1 and told["requests"] == 1
            gate.set()
            assert (await answer)[0] == 200
            told = await here.agent.revoke("default.chat.1.0", only_if_idle_s=60.0)
            assert told["released"] is False and told["idle_s"] < 60
            assert (await here.agent.revoke("default.chat.1.0", only_if_idle_s=0.0))["released"] is True
            assert (await here.post(CHAT))[0] == 200
            assert len(here.agent.acquired) == 2
            await here.until(lambda: any(verb == "activity" for verb, _ in here.agent.told))

    asyncio.run(main())


def test_a_lost_instance_is_acquired_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            await here.post(CHAT)
            here.agent.links[-1].tell("lost", {"instance": "default.chat.1.0", "reason": "it died"})
            await here.agent.links[-1].call("revoke", {"instance": "nobody", "only_if_idle_s": None})
            assert (await here.post(CHAT))[0] == 200
            assert len(here.agent.acquired) == 2

    asyncio.run(main())


def test_an_agent_that_comes_back_hears_of_the_leases_held(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            await here.post(CHAT)
            await here.agent.links[-1].close()
            assert (await here.post(CHAT))[0] == 200
            await here.until(lambda: len(here.agent.links) == 2)
            assert here.agent.links[-1].peer["leases"] == ["default.chat.1.0"]
            assert len(here.agent.acquired) == 1

    asyncio.run(main())


def test_the_next_instance_wakes_when_the_first_is_full(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            await plain(script, body, writer)

        async with town(tmp_path, engines=[Script(slow), Script(slow)], service={"target_in_flight": 2}) as here:
            answers = [asyncio.create_task(here.post(CHAT)) for _ in range(4)]
            await here.until(lambda: all(len(engine.calls) == 2 for engine in here.engines))
            gate.set()
            assert [status for status, _, _ in await asyncio.gather(*answers)] == [200] * 4

    asyncio.run(main())


async def _drop(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _garbage(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")


async def _half_head(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(head(kind="text/event-stream"))
    await writer.drain()
    writer.close()


async def _half_body(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(whole()[:-5])
    await writer.drain()
    writer.close()


async def _no_json(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(head(length=7) + b"<html/>")


@pytest.mark.parametrize("way", [_drop, _garbage, _half_head, _half_body, _no_json])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_an_engine_that_fails_before_the_first_token_is_replaced_silently(tmp_path: Path, way: Any, body: Any) -> None:
    async def main() -> None:
        async with town(tmp_path, engines=[Script(way), Script()]) as here:
            if way is _no_json and "stream" in body:
                return  # a stream's words are not judged
            here.agent.instances["default.chat.1.0"].failure = None

            async def gone(notify: Notify) -> None:
                if len(here.agent.acquired) > 1:
                    here.agent.instances["default.chat.1.0"].failure = NoRoom("gone")

            here.agent.instances["default.chat.1.0"].wake = gone
            status, top, answer = await here.post(body)
            assert status == 200 and b"default.chat.1.1" in top, answer
            assert ("suspect", "default.chat.1.0") in [(verb, b.get("instance")) for verb, b in here.agent.told]
            await here.until(lambda: bool(here.settlements()))
            [settled] = here.settlements()
            assert settled.outcome is Outcome.COMPLETE and settled.tokens == Tokens(7, 2, 3)

    asyncio.run(main())


def test_an_engine_that_always_dies_ends_in_a_clean_error_after_three_tries(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, engines=[Script(_drop)]) as here:
            status, _, body = await here.post(CHAT)
            assert status == 502 and error_code(body) == "engine_lost"
            assert len(here.engines[0].calls) == 3
            [settled] = here.settlements()
            assert settled.outcome is Outcome.FAILED and settled.cost_pico == 0

    asyncio.run(main())


def test_tokens_of_a_try_in_vain_are_the_systems(tmp_path: Path) -> None:
    async def progress_then_die(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if len(script.calls) > 1:
            await plain(script, body, writer)
            return
        done = b'data: {"choices":[],"timings":{"cache_n":2,"prompt_n":5},"prompt_progress":{"total":7,"cache":2,"processed":7}}\n\n'
        writer.write(head(kind="text/event-stream") + b"%x\r\n%b\r\n" % (len(done), done))
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with town(tmp_path, engines=[Script(progress_then_die)]) as here:
            status, _, body = await here.post(STREAM)
            assert status == 200 and b"prompt_progress" not in body
            await here.until(lambda: len(here.settlements()) == 2)
            wasted, settled = here.settlements()
            assert wasted.account is Account.SYSTEM and wasted.tokens == Tokens(7, 2, 0) and wasted.cost_pico == 0
            assert settled.account is Account.USER and settled.tokens == Tokens(7, 2, 3)

    asyncio.run(main())


def test_an_engine_that_dies_mid_stream_raises_in_the_official_client(tmp_path: Path) -> None:
    async def two_then_die(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(head(kind="text/event-stream") + token("a", 1) + token("b", 2))
        await writer.drain()
        writer.transport.close()

    async def main() -> None:
        async with (
            town(tmp_path, engines=[Script(two_then_die)]) as here,
            openai.AsyncOpenAI(base_url=here.url, api_key=KEY, max_retries=0) as client,
        ):
            said = []
            with pytest.raises(openai.APIError, match="broke off"):
                async for piece in await client.chat.completions.create(**_openai(STREAM)):
                    said.append(piece.choices[0].delta.content)  # noqa: PERF401  it raises midway
            assert said == ["a", "b"]
            [settled] = here.settlements()
            assert settled.outcome is Outcome.CUT and settled.tokens == Tokens(7, 2, 2)

    asyncio.run(main())


def test_a_client_that_leaves_mid_stream_stops_the_engine_and_pays_for_what_was_made(tmp_path: Path) -> None:
    async def endless(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(head(kind="text/event-stream") + token("a", 1) + token("b", 2))

    async def main() -> None:
        async with town(tmp_path, engines=[Script(endless)]) as here:
            reader, writer = await here.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            await reader.readuntil(b'"b"')
            writer.close()
            async with asyncio.timeout(5):
                await here.engines[0].hung_up.wait()
            await here.until(lambda: bool(here.settlements()))
            [settled] = here.settlements()
            assert settled.outcome is Outcome.HUNG_UP and settled.tokens == Tokens(7, 2, 2)
            assert (await here.agent.revoke("default.chat.1.0"))["released"]

    asyncio.run(main())


def test_a_slow_client_slows_the_engine(tmp_path: Path) -> None:
    sent = 0

    async def fast(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(kind="text/event-stream"))
        for number in range(1, 2001):
            writer.write(token("x" * 10000, number))
            await writer.drain()
            sent = number
        writer.write(LAST)

    async def main() -> None:
        async with town(tmp_path, engines=[Script(fast)]) as here:
            reader, writer = await here.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            await reader.readuntil(b"200 OK")
            seen = -1
            async with asyncio.timeout(5):
                while seen != sent:  # until nothing moves any more
                    seen = sent
                    await asyncio.sleep(0.1)
            assert sent < 2000
            _, _, body = split(b"HTTP/1.1 200 OK" + await reader.read())
            assert body.count(b"data: ") == 2002 and sent == 2000
            writer.close()

    asyncio.run(main())


def test_a_fallback_serves_when_the_first_choice_can_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, engines=[Script(), Script()]) as here:
            table = here.control.table
            first, second = table.services[0].instances
            other = replace(table.services[0], service="spare", instances=(second,))
            chat = replace(table.services[0], instances=(first,))
            here.change(services=(chat, other), models=(replace(table.models[0], fallbacks=("spare",)),))
            here.agent.instances["default.chat.1.0"].failure = NoRoom("full")
            await here.until(lambda: "default/spare" in here.control.loads[-1]["services"])
            status, top, _ = await here.post(CHAT)
            assert status == 200 and b"default.chat.1.1" in top
            assert here.settlements()[-1].service == "spare"

    asyncio.run(main())


def test_control_away_is_no_reason_not_to_serve_but_for_unknown_budgets(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, key_limits=Limits(budget_pico=10**9)) as here:
            here.control.budget_pico = 10**6
            assert (await here.post(CHAT))[0] == 200
            spent = here.settlements()[0].cost_pico
            assert spent and len(here.control.slices) == 1 and here.control.slices[0]["incarnation"] == "life1"
            assert here.control_server is not None
            here.control_server.close()
            for link in here.control.links:
                await link.close()
            served = 0
            while (status := (await here.post(CHAT))[0]) == 200:
                served += 1
            assert status == 503 and served > 0
            assert sum(settled.cost_pico for settled in here.settlements()) <= sum(here.control.granted.values())

    asyncio.run(main())


def test_a_budget_that_is_spent_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, key_limits=Limits(budget_pico=10**9)) as here:
            here.control.budget_pico = 200_000
            statuses = [(await here.post(CHAT)) for _ in range(60)]
            last = statuses[-1]
            assert statuses[0][0] == 200 and last[0] == 429 and error_code(last[2]) == "insufficient_quota"
            assert sum(settled.cost_pico for settled in here.settlements()) <= 200_000

    asyncio.run(main())


def test_rates_and_in_flight_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path, key_limits=Limits(requests_per_minute=3)) as here:
            answers = [await here.post(CHAT) for _ in range(4)]
            assert [status for status, _, _ in answers] == [200, 200, 200, 429]
            assert b"retry-after: " in answers[3][1] and error_code(answers[3][2]) == "rate_limit_exceeded"

    asyncio.run(main())


def test_a_worker_that_is_told_to_stop_finishes_its_streams(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(head(kind="text/event-stream") + token("a", 1))
            await gate.wait()
            writer.write(LAST)

        async with town(tmp_path, engines=[Script(slow)]) as here:
            reader, writer = await here.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            await reader.readuntil(b'"a"')
            here.stop.set()
            gate.set()
            assert (await reader.read()).endswith(b"[DONE]\n\n\r\n0\r\n\r\n")
            writer.close()

    asyncio.run(main())


def test_a_stream_that_does_not_end_in_time_is_told_of_the_restart(tmp_path: Path) -> None:
    async def endless(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(head(kind="text/event-stream") + token("a", 1))

    async def main() -> None:
        async with town(tmp_path, engines=[Script(endless)], drain_s=0.05) as here:
            reader, writer = await here.dial()
            writer.write(request(msgspec.json.encode(STREAM)))
            await reader.readuntil(b'"a"')
            here.stop.set()
            rest = await reader.read()
            assert b'"error"' in rest and b"restarts" in rest and rest.endswith(b"0\r\n\r\n")
            assert here.settlements()[0].outcome is Outcome.CUT
            writer.close()

    asyncio.run(main())


def test_an_instance_that_was_replaced_meanwhile_is_waited_for_under_its_new_name(tmp_path: Path) -> None:
    """Control lets the old one go before this worker has read the new table: no client hears of it."""

    async def main() -> None:
        async with town(tmp_path) as here:
            old = here.agent.instances["default.chat.1.0"]
            old.failure = NotFound("this node has no instance default.chat.1.0")
            waiting = asyncio.create_task(here.post(CHAT))
            await here.until(lambda: len(here.agent.acquired) > 1)
            here.agent.instances["default.chat.2.0"] = replace(old, failure=None)
            route = here.control.table.services[0]
            fresh = (replace(route.instances[0], instance="default.chat.2.0"),)
            here.change(services=(replace(route, generation=2, instances=fresh),))
            status, _, body = await waiting
            assert status == 200, body
            asked = len(here.agent.acquired)
            assert (await here.post(CHAT))[0] == 200
            assert len(here.agent.acquired) == asked, "nobody goes on asking for the old one"

    asyncio.run(main())


def test_an_instance_that_stays_away_is_no_fault_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bastide.gateway.fleet._GONE_S_MAX", 0.1)

    async def main() -> None:
        async with town(tmp_path) as here:
            here.agent.instances["default.chat.1.0"].failure = NotFound("this node has no instance default.chat.1.0")
            status, top, body = await here.post(CHAT)
            assert (status, error_code(body)) == (503, "unavailable") and b"retry-after" in top.lower()

    asyncio.run(main())


def test_a_conversation_goes_on_where_it_was_read(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(script: Script, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            await plain(script, body, writer)

        def talk(*words: str) -> dict[str, Any]:
            return CHAT | {"messages": [{"role": "user", "content": word * 400} for word in words]}

        async with town(tmp_path, engines=[Script(held), Script(held)], service={"target_in_flight": 1}) as here:
            first = asyncio.create_task(here.post(talk("about bread ")))
            await here.until(lambda: bool(here.engines[0].calls))
            second = asyncio.create_task(here.post(talk("about wine ")))
            await here.until(lambda: bool(here.engines[1].calls))
            gate.set()
            assert (await first)[0] == (await second)[0] == 200
            for words, index in (
                (("about wine ", "and red wine? "), 1),
                (("about bread ", "and rye? "), 0),
                (("about cheese ",), 0),
                (("about wine ", "and red wine? ", "and white? "), 1),
            ):
                status, top, _ = await here.post(talk(*words))
                assert status == 200 and f"default.chat.1.{index}".encode() in top, words

    asyncio.run(main())
