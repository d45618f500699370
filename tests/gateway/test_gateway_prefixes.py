"""What a gateway remembers of prompts: blocks by their place, the newest, and nothing of what they say."""

from __future__ import annotations

import json

from bastide.gateway.prefixes import BLOCK_BYTES, BLOCKS_MAX, KNOWN_MAX, Prefixes, blocks


def body(*messages: str, **options: object) -> bytes:
    told = [{"role": "user", "content": message} for message in messages]
    return json.dumps({"model": "chat", **options, "messages": told}).encode()


LONG = "a long beginning that everybody shares " * 100


def test_a_conversation_that_goes_on_shares_its_beginning() -> None:
    first, second = blocks(body(LONG)), blocks(body(LONG, "and then?"))
    assert len(first) > 5
    assert second[: len(first) - 1] == first[:-1]
    assert blocks(body(LONG, temperature=0.5, max_tokens=3)) == first, "what is said before the prompt does not matter"
    assert not set(blocks(body("x" + LONG))) & set(first), "a block stands for all that is before it"
    assert blocks(b"") == blocks(body("short")) == ()
    assert len(blocks(b"x" * (2 * BLOCKS_MAX * BLOCK_BYTES))) == BLOCKS_MAX


def test_shares_count_from_the_beginning_on() -> None:
    prefixes, prompt = Prefixes(), tuple(range(10))
    assert prefixes.share("one", prompt) == 0.0
    prefixes.sent("one", prompt[:5])
    prefixes.sent("two", prompt[3:])
    assert prefixes.share("one", prompt) == 0.5
    assert prefixes.share("two", prompt) == 0.0
    assert prefixes.share("one", ()) == 0.0
    prefixes.forget("one")
    assert prefixes.share("one", prompt) == 0.0


def test_the_newest_are_kept_and_only_of_instances_that_are_there() -> None:
    prefixes = Prefixes()
    prefixes.sent("one", range(KNOWN_MAX))
    prefixes.sent("one", [-1])
    assert prefixes.share("one", [-1]) == 1.0
    assert prefixes.share("one", [0]) == 0.0
    assert prefixes.share("one", [1]) == 1.0
    prefixes.keep(["two"])
    assert prefixes.share("one", [1]) == 0.0
