"""The official OpenAI client against a real llama.cpp engine: what is billed is what the engine itself counted."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import random_model
from town import KEY, Instance, Town, town

from bastide.domain.ledger import Outcome, Tokens
from bastide.domain.routes import InstanceRef

ASK: Any = {"model": "chat", "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="bst"))  # a Unix socket's path must be short
    model = random_model.write(tmp_path_factory.mktemp("model") / "random.gguf")
    path = str(directory / "e.sock")  # llama.cpp takes a host for a socket by this ending
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "engine_child.py"), str(model), path, "sek"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    yield path
    child.stdin.close()
    child.wait(10)


def counted(path: str) -> Tokens:
    """The engine's own counters."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    line.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sek\r\nConnection: close\r\n\r\n")
    said = b""
    while piece := line.recv(65536):
        said += piece
    line.close()
    found = {name: int(float(value)) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", said.decode(), re.M)}
    cached = found["prompt_tokens_cached_total"]
    return Tokens(found["prompt_tokens_total"] + cached, cached, found["tokens_predicted_total"])


@asynccontextmanager
async def with_engine(tmp_path: Path, path: str, **more: Any) -> AsyncIterator[tuple[Town, openai.AsyncOpenAI]]:
    async with town(tmp_path, engines=[], **more) as here:
        here.agent.instances["default.chat.1.0"] = Instance(path)
        service = here.control.table.services[0]
        ref = InstanceRef("default.chat.1.0", str(tmp_path / "s" / "agent"))
        revision = here.control.table.revision
        here.change(services=(_with(service, ref),))
        await here.until(lambda: here.control.table.revision > revision)
        async with openai.AsyncOpenAI(base_url=here.url, api_key=KEY, max_retries=0) as client:
            yield here, client


def _with(service: Any, ref: InstanceRef) -> Any:
    from dataclasses import replace

    return replace(service, instances=(ref,), context_tokens=2048)


def _sum(found: list[Tokens]) -> Tokens:
    return Tokens(
        sum(t.input_tokens for t in found), sum(t.cached_input_tokens for t in found), sum(t.output_tokens for t in found)
    )  # fmt: skip


def _minus(after: Tokens, before: Tokens) -> Tokens:
    return Tokens(
        after.input_tokens - before.input_tokens,
        after.cached_input_tokens - before.cached_input_tokens,
        after.output_tokens - before.output_tokens,
    )


def as_tokens(usage: Any) -> Tokens:
    return Tokens(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens)


def test_every_shape_of_answer_is_counted_as_the_engine_counts(tmp_path: Path, engine: str) -> None:
    async def main() -> None:
        async with with_engine(tmp_path, engine) as (here, client):
            before = counted(engine)
            seen: list[Tokens] = []
            whole = await client.chat.completions.create(**ASK, max_tokens=5)
            assert whole.choices[0].message.content is not None and whole.model == "chat"
            seen.append(as_tokens(whole.usage))
            several = await client.chat.completions.create(**ASK, max_tokens=4, n=3)
            assert [choice.index for choice in several.choices] == [0, 1, 2]
            assert all(choice.finish_reason for choice in several.choices)
            seen.append(as_tokens(several.usage))
            stream_usages = [
                [chunk.usage async for chunk in await client.chat.completions.create(
                    **ASK, max_tokens=6, n=choices, stream=True, stream_options={"include_usage": True}
                ) if chunk.usage is not None]
                for choices in (1, 2)
            ]  # fmt: skip
            for usages in stream_usages:
                assert len(usages) == 1
                seen.append(as_tokens(usages[0]))
            completion = await client.completions.create(model="chat", prompt="Once", max_tokens=5)
            seen.append(as_tokens(completion.usage))
            listed = await client.completions.create(model="chat", prompt=["abc", "defgh"], n=2, max_tokens=3)
            assert len(listed.choices) == 4
            seen.append(as_tokens(listed.usage))
            response = await client.responses.create(model="chat", input="Hi", max_output_tokens=3)
            usage = response.usage
            assert usage is not None
            seen.append(Tokens(usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens))
            async for happening in await client.responses.create(
                model="chat", input="Hi you", max_output_tokens=4, stream=True
            ):
                last = happening
            usage = last.response.usage  # type: ignore[union-attr]
            assert usage is not None
            seen.append(Tokens(usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens))
            async for _ in await client.chat.completions.create(**ASK, max_tokens=7, stream=True):
                pass
            async for _ in await client.completions.create(model="chat", prompt="Hey", max_tokens=7, n=2, stream=True):
                pass
            await here.until(lambda: len(here.settlements()) == 10)
            settled = [settlement.tokens for settlement in here.settlements()]
            assert settled[:8] == seen
            assert _sum(settled) == _minus(counted(engine), before)
            assert all(settlement.outcome is Outcome.COMPLETE for settlement in here.settlements())
            assert all(
                r.reserved_pico >= s.cost_pico for r, s in zip(here.reservations(), here.settlements(), strict=True)
            )

    asyncio.run(main())


def test_a_client_that_leaves_pays_for_what_was_made(tmp_path: Path, engine: str) -> None:
    async def main() -> None:
        async with with_engine(tmp_path, engine) as (here, client):
            before = counted(engine)
            stream = await client.chat.completions.create(**ASK, max_tokens=1500, stream=True)
            number = 0
            async for _ in stream:
                number += 1
                if number == 20:
                    break
            await stream.close()
            await here.until(lambda: bool(here.settlements()))
            [settled] = here.settlements()
            assert settled.outcome is Outcome.HUNG_UP
            assert settled.tokens.output_tokens >= 18 and settled.tokens.input_tokens == 30
            await here.until(lambda: idle(engine))
            made = _minus(counted(engine), before)
            assert settled.tokens.output_tokens <= made.output_tokens < 1500

    asyncio.run(main())


def idle(path: str) -> bool:
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    line.sendall(b"GET /slots HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sek\r\nConnection: close\r\n\r\n")
    said = b""
    while piece := line.recv(65536):
        said += piece
    line.close()
    return b'"is_processing":true' not in said


def test_a_named_tool_is_really_called(tmp_path: Path, engine: str) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
        for name in ("one", "two")
    ]

    async def main() -> None:
        async with with_engine(tmp_path, engine) as (_, client):
            answer = await client.chat.completions.create(
                **ASK, max_tokens=60, tools=tools, tool_choice={"type": "function", "function": {"name": "two"}}
            )
            calls = answer.choices[0].message.tool_calls
            # A random model may run out of tokens before its call ends; what it must not do is talk instead.
            assert calls is None or calls[0].function.name == "two"  # type: ignore[union-attr]
            with pytest.raises(openai.BadRequestError, match="not among the tools"):
                await client.chat.completions.create(
                    **ASK, tools=tools, tool_choice={"type": "function", "function": {"name": "three"}}
                )

    asyncio.run(main())


def test_the_clients_errors_are_the_official_ones(tmp_path: Path, engine: str) -> None:
    async def main() -> None:
        async with with_engine(tmp_path, engine) as (here, client):
            assert [model.id async for model in client.models.list()] == ["chat"]
            assert (await client.models.retrieve("chat")).owned_by == "default"
            with pytest.raises(openai.NotFoundError, match="models you can use: chat"):
                await client.chat.completions.create(model="other", messages=ASK["messages"])
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="bst_wrong").models.list()
            with pytest.raises(openai.BadRequestError, match="max_tokens must be between"):
                await client.chat.completions.create(**ASK, max_tokens=-1)
            with pytest.raises(openai.BadRequestError, match="exceeds the available context"):
                await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x " * 5000}])
            with pytest.raises(openai.BadRequestError, match="no embeddings"):
                await client.embeddings.create(model="chat", input="hi")
            assert all(settlement.outcome is Outcome.FAILED for settlement in here.settlements())

    asyncio.run(main())


def test_a_hundred_and_fifty_requests_on_lines_the_engine_closes(tmp_path: Path, engine: str) -> None:
    async def main() -> None:
        async with with_engine(tmp_path, engine) as (here, client):
            for _ in range(150):
                await client.chat.completions.create(**ASK, max_tokens=1)
            assert len(here.settlements()) == 150
            assert not [told for told in here.agent.told if told[0] == "suspect"]

    asyncio.run(main())
