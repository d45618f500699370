"""The spec file: what is accepted, and every problem at once with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.control.specfile import FIELDS, parse
from bastide.domain.errors import InvalidSpec
from bastide.domain.spec import Replicas, SleepMode

WHOLE = """
project: default
services:
  chat:
    model: builtin://tiny
    engine: auto
    replicas: 0..2
    target: {in_flight: 4}
    sleep: {light: 60s, deep: 30m}
    price: {input_per_mtok: 0.10, cached_input_per_mtok: 0.01, output_per_mtok: 0.30, instance_hour: 0}
    hold: {wait: 5m, queue: 256}
    resources: {memory: auto, cpu: 2}
    context: 4096
  outside:
    endpoint: {url: "http://127.0.0.1:1/v1", model: gpt, key: {secret: token}}
"""


def service(text: str) -> str:
    return f"services:\n  a:\n    model: builtin://tiny\n    {text}\n"


def test_the_whole_example() -> None:
    chat, outside = parse(WHOLE).services
    assert chat.replicas == Replicas(0, 2) and chat.target_in_flight == 4 and chat.context_tokens == 4096
    assert (chat.sleep.mode, chat.sleep.light_s, chat.sleep.deep_s) == (SleepMode.TIMERS, 60.0, 1800.0)
    assert chat.price.input_pico_per_token == 100_000 and chat.price.output_pico_per_token == 300_000
    assert chat.hold.wait_s_max == 300.0 and chat.resources.memory_bytes is None
    assert outside.endpoint is not None and outside.endpoint.key_secret == "token" and outside.model is None


@pytest.mark.parametrize(
    ("text", "mode", "light_s"),
    [
        ("sleep: off", SleepMode.OFF, None),
        ("sleep: auto", SleepMode.AUTO, None),
        ("sleep: 90s", SleepMode.TIMERS, 90.0),
    ],
)
def test_ways_to_say_sleep(text: str, mode: SleepMode, light_s: float | None) -> None:
    (spec,) = parse(service(text)).services
    assert (spec.sleep.mode, spec.sleep.light_s) == (mode, light_s)


@pytest.mark.parametrize(("text", "expected"), [("2", (2, 2)), ("0..4", (0, 4)), ("1..", (1, 1)), ("'0..1'", (0, 1))])
def test_ways_to_say_replicas(text: str, expected: tuple[int, int]) -> None:
    (spec,) = parse(service(f"replicas: {text}")).services
    assert (spec.replicas.least, spec.replicas.most) == expected


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("modle: x", 4, "did you mean `model`?"),
        ("replicas: 3..1", 4, "runs backwards; write 1..3"),
        ("replicas: 0", 4, "can never serve"),
        ("sleep: 5 parsecs", 4, "not a duration"),
        ("sleep: {light: 60s, deep: 5s}", 4, "can't come earlier"),
        ("resources: {memory: 2 quarts}", 4, "not a size"),
        ("resources: {memory: 12}", 4, "less than any model needs"),
        ("context: -1", 4, "whole number from 64"),
        ("context: true", 4, "whole number"),
        ("price: {input_per_mtok: -2}", 4, "between 0 and 1000000"),
        ("price: {input_per_mtok: 0.0000000001}", 4, "finer than"),
        ("engine: llamacpp", 4, "did you mean llama.cpp?"),
        ("target: 4", 4, "must be a mapping"),
        ("hold: {wait: 2h}", 4, "between 0 and 3600"),
        ("embeddings: maybe", 4, "true or false"),
        ("model: builtin://tiny", 4, "is there twice (first on line 3)"),
    ],
)
def test_every_mistake_has_its_line_and_its_remedy(text: str, line: int, part: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse(service(text))
    assert any(problem.line == line and part in problem.message for problem in raised.value.problems), raised.value


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("- a", "must be a mapping"),
        ("project: Default\nservices: {a: {model: builtin://tiny}}", "1 to 63"),
        ("services: {}", "is empty"),
        ("services: [a]", "mapping of names"),
        ("services: {a: }", "must be a mapping"),
        ("services: {a: {replicas: 1}}", "needs `model:`"),
        ("services: {a: {model: tiny}}", "no known scheme"),
        ("services: {a: {model: htps://x}}", "did you mean `https://`?"),
        ("services: {a: {model: 'https://x/y.gguf'}}", "needs its checksum"),
        ("services: {a: {model: {url: 'https://x/y.gguf', sha256: abc}}}", "64 hexadecimal"),
        ("services: {a: {endpoint: {url: 'ftp://x', model: m}}}", "must be http://"),
        ("services: {a: {endpoint: {url: 'http://x/v1'}}}", "needs `model:`"),
        ("services: {A_b: {model: builtin://tiny}}", "a service's name"),
        ("a: &x [1\nb", "not YAML"),
        ("a: &a [*a]", "nested more than"),
        ("services: {a: {model: builtin://tiny, endpoint: {url: 'http://x/v1', model: m}}}", "not both"),
    ],
)
def test_files_that_are_refused(text: str, part: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse(text)
    assert part in str(raised.value)


def test_every_problem_at_once() -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse("services:\n  a:\n    modle: x\n    replicas: 3..1\n  b:\n    model: builtin://tiny\n    context: 1\n")
    assert [problem.line for problem in raised.value.problems] == [2, 3, 4, 7]


def test_a_project_key_stays_in_its_project() -> None:
    with pytest.raises(InvalidSpec, match="belongs to project"):
        parse("project: other\nservices: {a: {model: builtin://tiny}}", "lab")
    assert parse("services: {a: {model: builtin://tiny}}", "lab").project == "lab"


def test_depth_and_width_are_bounded() -> None:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    with pytest.raises(InvalidSpec, match="too many values"):
        parse(laughs)
    with pytest.raises(InvalidSpec, match="deep"):
        parse("a: " + "[" * 50 + "]" * 50)
    with pytest.raises(InvalidSpec):
        parse("a: " + "[" * 20_000)
    with pytest.raises(InvalidSpec, match="over 4 MiB"):
        parse("# " + "x" * 5_000_000)


@given(st.text(max_size=200))
def test_no_text_crashes_it(text: str) -> None:
    try:
        parse(text)
    except InvalidSpec as error:
        assert error.problems


@given(st.dictionaries(st.sampled_from([f.name.split(".")[0] for f in FIELDS]), st.text(max_size=12), max_size=5))
def test_no_value_crashes_it(fields: dict[str, str]) -> None:
    import json

    try:
        parse(json.dumps({"services": {"a": fields}}))
    except InvalidSpec as error:
        assert error.problems
